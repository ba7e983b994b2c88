//! Tests of valid keys, and of keys that are refused when they are read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::super::*;
use crate::config::{Algorithm, TokenRules};

const RS256_KEY: &[u8] = include_bytes!("../../../tests/tokens/rs256.pem");
const ES256_KEY: &[u8] = include_bytes!("../../../tests/tokens/es256.pem");
const EDDSA_KEY: &[u8] = include_bytes!("../../../tests/tokens/eddsa.pem");
const JWKS: &[u8] = include_bytes!("../../../tests/tokens/jwks.json");
const RS256: &str = include_str!("../../../tests/tokens/rs256.jwt");
const NOW_S: u64 = 1_800_000_000;

/// Returns the key with the index `place` in the valid JWK set, with some members changed.
fn jwk(place: usize, changes: &Value) -> Value {
    let set: Value = serde_json::from_slice(JWKS).unwrap();
    let mut key = set["keys"][place].clone();
    for (name, value) in changes.as_object().unwrap() {
        key[name] = value.clone();
    }
    key
}

fn bytes_of(key: &Value, name: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(key[name].as_str().unwrap()).unwrap()
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn parse(keys: &[Value]) -> Result<KeySet, KeyError> {
    KeySet::parse(json!({"keys": keys}).to_string().as_bytes())
}

/// Returns the error for a set that has this key as its second key.
fn fault(key: Value) -> KeyError {
    let good = jwk(1, &json!({}));
    match parse(&[good, key]).unwrap_err() {
        KeyError::InSet { name, error } if name.place == 2 => *error,
        other => panic!("{other}"),
    }
}

fn element(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    let head = match value.len() {
        0..=0x7f => vec![tag, length[1]],
        0x80..=0xff => vec![tag, 0x81, length[1]],
        _ => vec![tag, 0x82, length[0], length[1]],
    };
    [head, value.to_vec()].concat()
}

/// Encodes an RSA public key in PEM (PKCS #1).
fn rsa_pem(n: &[u8], e: &[u8]) -> String {
    let der = element(0x30, &[element(2, n), element(2, e)].concat());
    let (begin, end) = (
        "-----BEGIN RSA PUBLIC KEY-----",
        "-----END RSA PUBLIC KEY-----",
    );
    format!("{begin}\n{}\n{end}\n", STANDARD.encode(der))
}

#[test]
fn unusable_rsa_key_is_refused_in_pem_and_jwk() {
    let good = jwk(0, &json!({}));
    let n = bytes_of(&good, "n");
    let even = [&n[..255], &[0][..]].concat();
    let small = |bits: usize| {
        let mut n = vec![0xff; 256];
        n[0] = (0xff_u16 >> (2048 - bits)) as u8;
        n
    };
    for (n, e, expected) in [
        (&n, &b""[..], KeyError::ExponentMissing),
        (&n, b"\0\0", KeyError::ExponentMissing),
        (&n, b"\x01", KeyError::ExponentOne),
        (&n, b"\x02", KeyError::ExponentEven),
        (&n, b"\x01\0\0", KeyError::ExponentEven),
        (&n, b"\x02\0\0\0\x01", KeyError::ExponentSize { got: 34 }),
        (&even, b"\x03", KeyError::ModulusEven),
        (&vec![], b"\x03", KeyError::ModulusSize { got: 0 }),
        (&small(2047), b"\x03", KeyError::ModulusSize { got: 2047 }),
        (
            &vec![0x55; 1025],
            b"\x03",
            KeyError::ModulusSize { got: 8199 },
        ),
    ] {
        let key = jwk(0, &json!({"n": encode(n), "e": encode(e)}));
        assert_eq!(fault(key), expected);
        // In DER, a number whose highest bit is set is negative. So a zero byte is added.
        let pem = rsa_pem(&[&[0][..], n].concat(), e);
        let error = Key::new(Algorithm::Rs256, pem.as_bytes()).unwrap_err();
        assert_eq!(error, expected);
    }
    for e in [&b"\x03"[..], b"\x01\0\x01", b"\x01\0\0\0\x01"] {
        assert!(parse(&[jwk(0, &json!({"e": encode(e)}))]).is_ok());
    }
    let negative = rsa_pem(&n, b"\x03");
    let error = Key::new(Algorithm::Rs256, negative.as_bytes()).unwrap_err();
    assert_eq!(error, KeyError::Pem(Algorithm::Rs256));
}

#[test]
fn leading_zeros_of_rsa_numbers_are_ignored() {
    let good = jwk(0, &json!({}));
    let (n, e) = (bytes_of(&good, "n"), bytes_of(&good, "e"));
    for zeros in [0, 1, 7] {
        let padded = |number: &[u8]| [&vec![0; zeros][..], number].concat();
        let key = jwk(
            0,
            &json!({"n": encode(&padded(&n)), "e": encode(&padded(&e))}),
        );
        let pem = rsa_pem(&[&[0][..], &padded(&n)].concat(), &padded(&e));
        let from_pem = Key::new(Algorithm::Rs256, pem.as_bytes()).unwrap();
        for keys in [parse(&[key]).unwrap().keys, vec![from_pem]] {
            let verifier = Verifier::new(keys, TokenRules::default()).unwrap();
            assert!(verifier.verify(RS256.trim(), NOW_S).is_ok());
        }
    }
}

#[test]
fn point_that_is_not_on_its_curve_is_refused() {
    let good = jwk(1, &json!({}));
    let (x, y) = (bytes_of(&good, "x"), bytes_of(&good, "y"));
    let mut wrong = y;
    wrong[31] ^= 1;
    assert_eq!(
        fault(jwk(1, &json!({"y": encode(&wrong)}))),
        KeyError::Es256
    );
    assert_eq!(fault(jwk(1, &json!({"y": encode(&x)}))), KeyError::Es256);
    for size in [0, 31, 33] {
        let mut x = x.clone();
        x.resize(size, 0);
        let error = fault(jwk(1, &json!({"x": encode(&x)})));
        let (name, got, expected) = ("x", size, 32);
        assert_eq!(
            error,
            KeyError::MemberSize {
                name,
                got,
                expected
            }
        );
    }
    for x in [&[2; 32][..], &[0xff; 32], &[0; 32], &[7; 31], &[7; 33], b""] {
        assert_eq!(fault(jwk(2, &json!({"x": encode(x)}))), KeyError::Ed25519);
    }
    // The encoded key ends with the bytes of the point.
    for (algorithm, pem, error) in [
        (Algorithm::Es256, ES256_KEY, KeyError::Es256),
        (Algorithm::EdDsa, EDDSA_KEY, KeyError::Ed25519),
    ] {
        let text = String::from_utf8(pem.to_vec()).unwrap();
        let lines: String = text.lines().filter(|line| !line.starts_with('-')).collect();
        let mut der = STANDARD.decode(lines).unwrap();
        der.splice(der.len() - 32.., [2; 32]);
        let begin = "-----BEGIN PUBLIC KEY-----\n";
        let pem = format!(
            "{begin}{}\n-----END PUBLIC KEY-----\n",
            STANDARD.encode(der)
        );
        assert_eq!(Key::new(algorithm, pem.as_bytes()).unwrap_err(), error);
    }
}

#[test]
fn key_of_another_kind_and_private_key_are_refused() {
    let weak = include_bytes!("../../../tests/tokens/weak.pem");
    let p384 = include_bytes!("../../../tests/tokens/p384.pem");
    for (algorithm, content, expected) in [
        (
            Algorithm::Rs256,
            &weak[..],
            KeyError::ModulusSize { got: 1024 },
        ),
        (Algorithm::Rs256, ES256_KEY, KeyError::Pem(Algorithm::Rs256)),
        (Algorithm::Rs256, EDDSA_KEY, KeyError::Pem(Algorithm::Rs256)),
        (Algorithm::Es256, RS256_KEY, KeyError::Pem(Algorithm::Es256)),
        (Algorithm::Es256, EDDSA_KEY, KeyError::Pem(Algorithm::Es256)),
        (Algorithm::Es256, p384, KeyError::Es256),
        (Algorithm::EdDsa, ES256_KEY, KeyError::Pem(Algorithm::EdDsa)),
        (
            Algorithm::EdDsa,
            b"garbage",
            KeyError::Pem(Algorithm::EdDsa),
        ),
        (Algorithm::Rs256, b"", KeyError::Pem(Algorithm::Rs256)),
        (
            Algorithm::Rs256,
            &[RS256_KEY, RS256_KEY].concat(),
            KeyError::Several,
        ),
    ] {
        assert_eq!(Key::new(algorithm, content).unwrap_err(), expected);
    }
    let private = b"-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n";
    let error = Key::new(Algorithm::Rs256, private).unwrap_err();
    assert_eq!(error, KeyError::Private);
}

#[test]
fn short_secret_is_refused() {
    for algorithm in [Algorithm::Hs256, Algorithm::Hs384, Algorithm::Hs512] {
        let least = algorithm.secret_bytes_min().unwrap();
        let got = least - 1;
        let short = KeyError::Short {
            algorithm,
            got,
            least,
        };
        assert!(Key::new(algorithm, &vec![7; least]).is_ok());
        assert_eq!(Key::new(algorithm, &vec![7; got]).unwrap_err(), short);
        let key = |bytes| {
            jwk(
                3,
                &json!({"alg": algorithm.name(), "k": encode(&vec![7; bytes])}),
            )
        };
        assert!(parse(&[key(least)]).is_ok());
        assert_eq!(fault(key(got)), short);
    }
}

#[test]
fn malformed_key_of_a_known_kind_is_refused_with_its_name() {
    for (key, expected) in [
        (jwk(0, &json!({"n": null})), KeyError::MemberMissing("n")),
        (jwk(0, &json!({"e": "A+=="})), KeyError::MemberEncoding("e")),
        (jwk(0, &json!({"e": 65537})), KeyError::MemberEncoding("e")),
        (jwk(1, &json!({"y": null})), KeyError::MemberMissing("y")),
        (
            jwk(1, &json!({"crv": null})),
            KeyError::MemberMissing("crv"),
        ),
        (jwk(3, &json!({"k": null})), KeyError::MemberMissing("k")),
        (
            jwk(0, &json!({"alg": "ES256"})),
            KeyError::OtherKind(Algorithm::Es256),
        ),
        (
            jwk(1, &json!({"crv": "P-384"})),
            KeyError::OtherKind(Algorithm::Es256),
        ),
    ] {
        assert_eq!(fault(key), expected);
    }
    for key in [json!([]), json!("x"), json!({}), jwk(0, &json!({"kid": 1}))] {
        assert!(matches!(fault(key), KeyError::Jwk(_)));
    }
    let error = parse(&[jwk(0, &json!({"e": ""}))]).unwrap_err();
    let text = "cannot be used: key 1 (kid \"rs256\") has no RSA exponent (e): it is empty or zero";
    assert_eq!(error.to_string(), text);
    assert!(matches!(KeySet::parse(b"[]"), Err(KeyError::Jwks(_))));
}

#[test]
fn key_for_another_use_is_ignored_with_its_reason() {
    let unknown = json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": [1], "x": {}});
    let curve = json!({"kty": "EC", "crv": "secp256k1"});
    let set = parse(&[
        jwk(0, &json!({"use": "enc", "n": "="})),
        jwk(0, &json!({"key_ops": ["encrypt"]})),
        jwk(0, &json!({"alg": "PS256", "kid": null})),
        jwk(3, &json!({"alg": null})),
        jwk(1, &json!({})),
        unknown,
        curve,
    ]);
    let set = set.unwrap();
    assert_eq!(set.keys.len(), 1);
    let said: Vec<String> = set
        .ignored
        .iter()
        .map(|one| format!("{} {}", one.name, one.reason))
        .collect();
    assert_eq!(
        said,
        [
            "key 1 (kid \"rs256\") is not for signatures",
            "key 2 (kid \"rs256\") is not for signatures",
            "key 3 is for the algorithm \"PS256\"",
            "key 4 (kid \"hs256\") is a secret without `alg`",
            "key 6 is for the algorithm \"ML-DSA-44\"",
            "key 7 is of the kind \"EC secp256k1\"",
        ]
    );
    let none = parse(&[jwk(0, &json!({"use": "enc"}))]);
    assert_eq!(none.unwrap_err(), KeyError::Unusable);
    assert_eq!(parse(&[]).unwrap_err(), KeyError::Unusable);
}

#[test]
fn every_key_is_tried_and_their_number_is_limited() {
    let secret = |number: usize| vec![u8::try_from(number).unwrap(); 32];
    let keys = |count: usize| -> Vec<Key> {
        let keys = (0..count).map(|number| Key::new(Algorithm::Hs256, &secret(number)).unwrap());
        keys.collect()
    };
    let verifier = Verifier::new(keys(64), TokenRules::default()).unwrap();
    for number in 0..64 {
        let spec = TokenSpec {
            expires_s: NOW_S + 60,
            ..TokenSpec::default()
        };
        let token = mint(Algorithm::Hs256, &secret(number), &spec).unwrap();
        assert!(verifier.verify(&token, NOW_S).is_ok(), "{number}");
    }
    let too_many = Verifier::new(keys(65), TokenRules::default()).unwrap_err();
    assert_eq!(too_many, KeyError::TooMany);
    let none = Verifier::new(Vec::new(), TokenRules::default()).unwrap_err();
    assert_eq!(none, KeyError::Unusable);
    let set = |count| parse(&vec![jwk(1, &json!({})); count]);
    assert_eq!(set(64).unwrap().keys.len(), 64);
    assert_eq!(set(65).unwrap_err(), KeyError::TooMany);
}
