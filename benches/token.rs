//! Measures, for each algorithm, the cost of verifying a valid token. Also measures the cost of
//! refusing a forged token.
//!
//! Each request with a token and each `auth` command causes one verification on the worker's
//! thread, so a hundred thousand clients that reconnect with a token cause as many verifications.
//! Publications cause none. The tokens and keys with public-key algorithms are those of the tests,
//! which were made with `openssl`.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a bench may panic"
)]

use std::hint::black_box;

use criterion::Criterion;
use fanfare::auth::{Key, TokenSpec, Verifier, mint};
use fanfare::config::{Algorithm, TokenRules};

const NOW_S: u64 = 1_800_000_000;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    tokens(&mut criterion);
    criterion.final_summary();
}

fn verifier(algorithm: Algorithm, key: &[u8]) -> Verifier {
    let key = Key::new(algorithm, key).unwrap();
    Verifier::new(vec![key], TokenRules::default()).unwrap()
}

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("token");
    for (algorithm, key, token) in [
        (
            Algorithm::Rs256,
            &include_bytes!("../tests/tokens/rs256.pem")[..],
            include_str!("../tests/tokens/rs256.jwt"),
        ),
        (
            Algorithm::Es256,
            &include_bytes!("../tests/tokens/es256.pem")[..],
            include_str!("../tests/tokens/es256.jwt"),
        ),
        (
            Algorithm::EdDsa,
            &include_bytes!("../tests/tokens/eddsa.pem")[..],
            include_str!("../tests/tokens/eddsa.jwt"),
        ),
    ] {
        let verifier = verifier(algorithm, key);
        let token = token.trim();
        assert!(verifier.verify(token, NOW_S).is_ok());
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| verifier.verify(black_box(token), NOW_S));
        });
        // The forged token has other claims but the same header, so the same key is selected.
        let (header, rest) = token.split_once('.').unwrap();
        let forged = format!("{header}.{}", rest.replacen("eyJzdWIi", "eyJzdWJi", 1));
        assert!(verifier.verify(&forged, NOW_S).is_err() && forged != token);
        group.bench_function(format!("{algorithm}_forged"), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&forged), NOW_S));
        });
    }
    let spec = TokenSpec {
        sub: Some("alice".into()),
        subscribe: vec!["chat:*".into(), "news".into()],
        publish: vec!["chat:1".into()],
        expires_s: NOW_S + 60,
        ..TokenSpec::default()
    };
    for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
        let verifier = verifier(algorithm, SECRET);
        let token = mint(algorithm, SECRET, &spec).unwrap();
        group.bench_function(algorithm.name(), |bencher| {
            bencher.iter(|| verifier.verify(black_box(&token), NOW_S));
        });
    }
    group.finish();
}
