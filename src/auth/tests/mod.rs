//! Tests that verify tokens made by other implementations, and tests of all refusals.

mod keys;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::{Algorithm, Config, TokenRules};
use crate::id::ChannelName;

/// Returns a configuration in which each channel needs a token.
fn guarded() -> Config {
    let mut config = Config::default();
    config.auth.jwks = "jwks.json".into();
    config
}

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const NOW_S: u64 = 1_800_000_000;
const RS256_KEY: &[u8] = include_bytes!("../../../tests/tokens/rs256.pem");
const ES256_KEY: &[u8] = include_bytes!("../../../tests/tokens/es256.pem");
const EDDSA_KEY: &[u8] = include_bytes!("../../../tests/tokens/eddsa.pem");
const JWKS: &[u8] = include_bytes!("../../../tests/tokens/jwks.json");
/// Tokens that were signed with `openssl` and are valid until 2100.
const RS256: &str = include_str!("../../../tests/tokens/rs256.jwt");
const ES256: &str = include_str!("../../../tests/tokens/es256.jwt");
const EDDSA: &str = include_str!("../../../tests/tokens/eddsa.jwt");
const NAMED: [&str; 3] = [
    include_str!("../../../tests/tokens/rs256-kid.jwt"),
    include_str!("../../../tests/tokens/es256-kid.jwt"),
    include_str!("../../../tests/tokens/eddsa-kid.jwt"),
];

fn verifier(algorithm: Algorithm, key: &[u8]) -> Verifier {
    let key = Key::new(algorithm, key).unwrap();
    Verifier::new(vec![key], TokenRules::default()).unwrap()
}

fn hs256() -> Verifier {
    verifier(Algorithm::Hs256, SECRET)
}

fn hs256_under(rules: TokenRules) -> Verifier {
    let key = Key::new(Algorithm::Hs256, SECRET).unwrap();
    Verifier::new(vec![key], rules).unwrap()
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Returns a token with this header and these claims, signed with a secret.
fn sign(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(secret);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn with_claims(claims: &Value) -> String {
    sign(&json!({"alg": "HS256"}), claims, SECRET)
}

fn with_header(header: &Value) -> String {
    sign(header, &json!({"exp": NOW_S + 60}), SECRET)
}

fn name(text: &str) -> ChannelName {
    ChannelName::new(text).unwrap()
}

#[test]
fn tokens_of_another_implementation_are_accepted() {
    for (algorithm, key, token) in [
        (Algorithm::Rs256, RS256_KEY, RS256),
        (Algorithm::Es256, ES256_KEY, ES256),
        (Algorithm::EdDsa, EDDSA_KEY, EDDSA),
    ] {
        let grant = verifier(algorithm, key)
            .verify(token.trim(), NOW_S)
            .unwrap();
        assert_eq!(grant.sub.as_deref(), Some("alice"), "{algorithm}");
        assert!(
            grant.may_subscribe(&name("chat:7"), &guarded())
                && grant.may_subscribe(&name("news"), &guarded())
        );
        assert!(
            !grant.may_subscribe(&name("chat"), &guarded())
                && !grant.may_subscribe(&name("newsroom"), &guarded())
        );
        assert!(
            grant.may_publish(&name("chat:1"), &guarded())
                && !grant.may_publish(&name("chat:2"), &guarded())
        );
        assert_eq!(grant.ends_s, 4_102_444_800);
    }
}

#[test]
fn key_set_is_parsed_and_its_keys_are_chosen_by_kid() {
    let verifier = Verifier::new(KeySet::parse(JWKS).unwrap().keys, TokenRules::default()).unwrap();
    for token in NAMED.into_iter().chain([RS256, ES256, EDDSA]) {
        assert!(verifier.verify(token.trim(), NOW_S).is_ok());
    }
    let claims = json!({"exp": NOW_S + 60});
    for (kid, outcome) in [
        ("hs256", Ok(())),
        ("unheard-of", Err(TokenError::UnknownKey)),
        ("for-encryption", Err(TokenError::UnknownKey)),
        ("rs256", Err(TokenError::Algorithm)),
    ] {
        let token = sign(&json!({"alg": "HS256", "kid": kid}), &claims, SECRET);
        let verified = verifier.verify(&token, NOW_S).map(|_grant| ());
        assert_eq!(verified, outcome, "{kid}");
    }
}

#[test]
fn minted_token_is_valid_for_every_secret() {
    let spec = TokenSpec {
        sub: Some("bob".into()),
        subscribe: vec!["a:*".into()],
        publish: vec!["b".into()],
        expires_s: NOW_S + 60,
        ..TokenSpec::default()
    };
    for (algorithm, bytes) in [
        (Algorithm::Hs256, 32),
        (Algorithm::Hs384, 48),
        (Algorithm::Hs512, 64),
    ] {
        let secret = vec![b'\n'; bytes];
        let token = mint(algorithm, &secret, &spec).unwrap();
        let grant = verifier(algorithm, &secret).verify(&token, NOW_S).unwrap();
        assert_eq!(grant.sub.as_deref(), Some("bob"));
        assert!(
            grant.may_subscribe(&name("a:1"), &guarded())
                && grant.may_publish(&name("b"), &guarded())
        );
    }
    let refused = mint(Algorithm::Rs256, SECRET, &spec);
    assert_eq!(refused, Err(MintError::Algorithm(Algorithm::Rs256)));
}

#[test]
fn public_key_is_never_used_as_a_secret() {
    // An attacker knows the public key, and can sign a token with this key as if the key were a
    // secret.
    let claims = json!({"exp": NOW_S + 60, "fanfare": {"subscribe": ["*"]}});
    for (algorithm, key) in [
        (Algorithm::Rs256, RS256_KEY),
        (Algorithm::Es256, ES256_KEY),
        (Algorithm::EdDsa, EDDSA_KEY),
    ] {
        let token = sign(&json!({"alg": "HS256"}), &claims, key);
        let verified = verifier(algorithm, key).verify(&token, NOW_S);
        assert_eq!(verified, Err(TokenError::Algorithm));
        let token = sign(&json!({"alg": algorithm.name()}), &claims, key);
        let verified = verifier(algorithm, key).verify(&token, NOW_S);
        assert_eq!(verified, Err(TokenError::Signature));
    }
    assert_eq!(
        Key::new(Algorithm::Hs256, RS256_KEY).unwrap_err(),
        KeyError::PemAsSecret(Algorithm::Hs256)
    );
}

#[test]
fn unsigned_token_is_refused_in_every_spelling_of_none() {
    let claims = encode(&json!({"exp": NOW_S + 60}));
    for none in [
        "none", "None", "NONE", "nOnE", "", "hs256", "HS1", "PS256", "RS384",
    ] {
        let header = encode(&json!({"alg": none}));
        for signature in ["", "AA"] {
            let token = format!("{header}.{claims}.{signature}");
            assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Algorithm));
        }
    }
    let header = encode(&json!({"alg": "HS256"}));
    let unsigned = format!("{header}.{claims}.");
    assert_eq!(hs256().verify(&unsigned, NOW_S), Err(TokenError::Signature));
}

#[test]
fn keys_in_the_header_are_ignored_and_crit_is_refused() {
    let other = b"another secret of at least 32 bytes..";
    let brought = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(other)});
    let claims = json!({"exp": NOW_S + 60});
    let token = sign(&json!({"alg": "HS256", "jwk": brought}), &claims, other);
    assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Signature));
    let token = with_header(&json!({"alg": "HS256", "crit": ["exp"]}));
    assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Malformed));
    let token = with_header(&json!({"alg": "HS256", "kid": "any", "x5c": ["AA"], "typ": 1}));
    assert!(hs256().verify(&token, NOW_S).is_ok());
}

#[test]
fn times_are_checked_with_leeway_to_the_second() {
    let verifier = hs256_under(TokenRules {
        leeway_s: 10,
        ..TokenRules::default()
    });
    let at = |claims: &Value, unix_s| verifier.verify(&with_claims(claims), unix_s).map(|_| ());
    let until = json!({"exp": NOW_S});
    assert_eq!(at(&until, NOW_S + 9), Ok(()));
    assert_eq!(at(&until, NOW_S + 10), Err(TokenError::Expired));
    let from = json!({"exp": NOW_S + 60, "nbf": NOW_S});
    assert_eq!(at(&from, NOW_S - 10), Ok(()));
    assert_eq!(at(&from, NOW_S - 11), Err(TokenError::NotYet));
}

/// Verifies a token with these claims at the time `unix_s`, and returns the token's expiry.
fn verify_text(claims: &str, unix_s: u64) -> Result<u64, TokenError> {
    let header = encode(&json!({"alg": "HS256"}));
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET);
    let algorithm = jsonwebtoken::Algorithm::HS256;
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm).unwrap();
    let grant = hs256().verify(&format!("{message}.{signature}"), unix_s)?;
    Ok(grant.ends_s)
}

#[test]
fn dates_may_be_any_json_number() {
    let largest = i64::MAX as u64;
    for (exp, outcome) in [
        ("1900000000", Ok(1_900_000_000)),
        ("1900000000.75", Ok(1_900_000_000)),
        ("1.9e9", Ok(1_900_000_000)),
        ("19E+8", Ok(1_900_000_000)),
        ("1900000000000e-3", Ok(1_900_000_000)),
        ("9223372036854775807", Ok(largest)),
        ("18446744073709551615", Ok(largest)),
        ("123456789012345678901234567890", Ok(largest)),
        ("1e300", Ok(largest)),
        ("1e999", Ok(largest)),
        ("-1e999", Err(TokenError::Expired)),
        ("-9223372036854775809", Err(TokenError::Expired)),
        ("-1", Err(TokenError::Expired)),
        ("-0.5", Err(TokenError::Expired)),
        ("0", Err(TokenError::Expired)),
        ("1e-9", Err(TokenError::Expired)),
        ("null", Err(TokenError::NoEnd)),
        ("\"1900000000\"", Err(TokenError::Date("exp"))),
        ("[]", Err(TokenError::Date("exp"))),
        ("true", Err(TokenError::Date("exp"))),
        ("NaN", Err(TokenError::Claims)),
        ("Infinity", Err(TokenError::Claims)),
        ("+1", Err(TokenError::Claims)),
        ("01", Err(TokenError::Claims)),
    ] {
        assert_eq!(
            verify_text(&format!(r#"{{"exp": {exp} }}"#), NOW_S),
            outcome,
            "{exp}"
        );
    }
    assert_eq!(verify_text("{}", NOW_S), Err(TokenError::NoEnd));
    assert_eq!(verify_text(r#"{"exp":-1}"#, 0), Err(TokenError::Expired));
    for (name, error) in [
        ("nbf", TokenError::Date("nbf")),
        ("iat", TokenError::Date("iat")),
    ] {
        let with = |value: &str| {
            let claims = format!(r#"{{"exp":1900000000,"{name}":{value}}}"#);
            verify_text(&claims, NOW_S).map(|_| ())
        };
        for good in [
            "-1",
            "-1e999",
            "-0.5",
            "1.7e9",
            "1799999999.9",
            "1800000000.9",
            "null",
        ] {
            assert_eq!(with(good), Ok(()), "{name} {good}");
        }
        for bad in ["\"1\"", "{}", "false"] {
            assert_eq!(with(bad), Err(error), "{name} {bad}");
        }
        let ahead = if name == "nbf" {
            Err(TokenError::NotYet)
        } else {
            Ok(())
        };
        assert_eq!(with("1e999"), ahead);
    }
}

#[test]
fn audience_and_issuer_must_match_the_rules() {
    let own = hs256_under(TokenRules {
        audience: Some("push".into()),
        issuer: Some("https://id.example".into()),
        leeway_s: 0,
    });
    let claims = |aud: Value, iss: Value| json!({"exp": NOW_S + 1, "aud": aud, "iss": iss});
    let id = || json!("https://id.example");
    for (claims, outcome) in [
        (claims(json!("push"), id()), Ok(())),
        (claims(json!(["web", "push"]), id()), Ok(())),
        (claims(json!("web"), id()), Err(TokenError::Audience)),
        (claims(json!([]), id()), Err(TokenError::Audience)),
        (claims(json!(null), id()), Err(TokenError::Audience)),
        (claims(json!(7), id()), Err(TokenError::Claims)),
        (
            claims(json!("push"), json!("https://id.example/")),
            Err(TokenError::Issuer),
        ),
        (claims(json!("push"), json!(null)), Err(TokenError::Issuer)),
    ] {
        let verified = own.verify(&with_claims(&claims), NOW_S).map(|_| ());
        assert_eq!(verified, outcome, "{claims}");
    }
    let token = with_claims(&claims(json!("push"), json!("another")));
    assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Audience));
}

#[test]
fn malformed_permissions_are_refused() {
    let with = |rights: Value| {
        let claims = json!({"exp": NOW_S + 1, "fanfare": rights});
        hs256().verify(&with_claims(&claims), NOW_S)
    };
    let nothing = with(json!({})).unwrap();
    assert!(nothing.subscribe.is_empty() && nothing.publish.is_empty());
    assert!(with(json!(null)).unwrap().subscribe.is_empty());
    assert!(with(json!({"subscribe": ["a"], "more": 1})).is_ok());
    for rights in [
        json!("*"),
        json!({"subscribe": "*"}),
        json!({"subscribe": [1]}),
        json!({"subscribe": ["a b"]}),
        json!({"publish": [""]}),
        json!({"publish": vec!["a"; 65]}),
    ] {
        assert_eq!(with(rights.clone()), Err(TokenError::Claims), "{rights}");
    }
    let sub = json!({"exp": NOW_S + 1, "sub": "x".repeat(257)});
    assert_eq!(
        hs256().verify(&with_claims(&sub), NOW_S),
        Err(TokenError::Claims)
    );
}

#[test]
fn malformed_token_is_refused() {
    let good = with_claims(&json!({"exp": NOW_S + 1}));
    assert!(hs256().verify(&good, NOW_S).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let padded = format!("{message}.{signature}=");
    let longer = format!("{good}.x");
    for text in [
        "", ".", "..", "...", "a.b.c", "Bearer", &padded, &longer, message,
    ] {
        assert!(hs256().verify(text, NOW_S).is_err(), "{text}");
    }
    let array = URL_SAFE_NO_PAD.encode(r#"["HS256",null,null]"#);
    let token = format!("{array}.e30.AA");
    assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Malformed));
    let twice = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","alg":"none"}"#);
    let token = format!("{twice}.e30.AA");
    assert_eq!(hs256().verify(&token, NOW_S), Err(TokenError::Malformed));
    // This token is longer than the largest request head that can be configured.
    let huge = "a".repeat(65_537);
    assert_eq!(hs256().verify(&huge, NOW_S), Err(TokenError::TooLong));
}

#[test]
fn every_changed_byte_and_every_truncation_is_refused() {
    let good = with_claims(&json!({"exp": NOW_S + 1, "sub": "a"}));
    let verifier = hs256();
    for at in 0..good.len() {
        assert!(verifier.verify(&good[..at], NOW_S).is_err());
        let mut changed = good.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert!(verifier.verify(&changed, NOW_S).is_err(), "{at}");
    }
}

#[test]
fn secret_written_as_a_line_ends_before_the_line_end() {
    let line = [SECRET, b"\n"].concat();
    let token = with_claims(&json!({"exp": NOW_S + 1}));
    for content in [&line[..], SECRET, &[SECRET, b"\r\n"].concat()] {
        let verifier = verifier(Algorithm::Hs256, content);
        assert!(verifier.verify(&token, NOW_S).is_ok());
    }
    let bytes = [&[0xff; 31][..], b"\n"].concat();
    assert!(Key::new(Algorithm::Hs256, &bytes).is_ok());
}

#[test]
fn debug_text_shows_no_secret() {
    let text = format!("{:?}", hs256());
    assert!(!text.contains("0123456789abcdef"), "{text}");
    assert!(!text.contains("48, 49, 50"), "{text}");
}

proptest! {
    #[test]
    fn random_text_is_never_accepted(text in "\\PC{0,200}") {
        prop_assert!(hs256().verify(&text, NOW_S).is_err());
    }

    #[test]
    fn no_header_and_no_claims_panic(header in "\\PC{0,80}", claims in "\\PC{0,120}") {
        let parts = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        let token = format!("{}.{}.AA", parts[0], parts[1]);
        prop_assert!(hs256().verify(&token, NOW_S).is_err());
    }

    #[test]
    fn no_key_file_panics(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        for algorithm in Algorithm::ALL {
            let _key = Key::new(algorithm, &content);
            let pem = [b"-----BEGIN PUBLIC KEY-----\n", &content[..]].concat();
            prop_assert!(Key::new(algorithm, &pem).is_err());
        }
        let _keys = KeySet::parse(&content);
    }
}
