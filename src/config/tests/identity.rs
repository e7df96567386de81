//! Who is asking: gateways, issuers and their keys.

use super::*;

const JWT: [&str; 4] = [
    "api.identity=jwt",
    "api.jwt.jwks_url=https://login.example.com/keys",
    "api.jwt.issuer=https://login.example.com/",
    "api.jwt.audience=coupons",
];

#[test]
fn tokens_need_issuer_audience_and_one_source() {
    check_set(&JWT, &[]);
    check_set(
        &[&JWT[..], &["api.listen=0.0.0.0:8080", "api.jwt.leeway=5m", "api.jwt.claim=email"]]
            .concat(),
        &[],
    );
    check_set(
        &["api.identity=jwt"],
        &[
            "api.jwt.jwks_url: is not set, nor is api.jwt.keys_file, while api.identity is \"jwt\"; set \
             it to the URL that the issuer names as jwks_uri, or set api.jwt.keys_file (default)",
            "api.jwt.issuer: is not set while api.identity is \"jwt\"; set it to iss of the issuer's \
             tokens, for example \"https://login.example.com/\" (default)",
            "api.jwt.audience: is not set while api.identity is \"jwt\"; set it to aud of the tokens \
             that are meant for coupond, for example \"coupons\" (default)",
        ],
    );
    let file = file("{\"keys\":[]}");
    let set = format!("api.jwt.keys_file={}", file.path.display());
    let found = problems(&with_set(&[&JWT[..], &[&set]].concat()), Some(&file));
    assert_eq!(
        found,
        [
            "api.jwt.keys_file: is set, and api.jwt.jwks_url too: keys come from one of them; leave out \
             one of them (--set)",
            "api.jwt.keys_file: names node.toml, which holds no key that can check signatures: RSA of \
             2,048 to 8,192 bits, EC on P-256 or P-384, or Ed25519 (0 other keys); name a JWKS of at most \
             1 MiB, or a file with one block BEGIN PUBLIC KEY, as `openssl pkey -in KEY -pubout` and \
             `openssl x509 -in CERTIFICATE -pubkey -noout` write it (--set)",
        ]
    );
}

#[test]
fn values_of_tokens_have_rules() {
    for (set, rule) in [
        ("api.jwt.leeway=301s", "must be a duration from \"0s\" to \"5m\";"),
        ("api.jwt.claim=", "must be the name of a claim: 1 to 256 bytes"),
        (
            "api.jwt.jwks_url=http://login.example.com/keys",
            "must be an https:// URL, or an http:// URL on",
        ),
        ("identity_fold=upper", "must be \"none\" or \"lower\"; write one of these"),
    ] {
        let found = problems(&with_set(&[set]), None);
        assert!(found.len() == 1 && found[0].contains(rule), "{set}: {found:?}");
    }
}

#[test]
fn a_file_of_keys_is_looked_at() {
    let large = format!("{{\"keys\":[]}}{}", " ".repeat(1 << 20));
    for (text, fault) in [
        ("", "which is neither a JWKS nor a PEM public key"),
        ("{\"keys\":", "which is no JWKS: EOF while parsing"),
        (&large, "it is longer than 1 MiB"),
    ] {
        let file = file(text);
        let set = format!("api.jwt.keys_file={}", file.path.display());
        let others = [JWT[0], JWT[2], JWT[3], &set];
        let found = problems(&with_set(&others), Some(&file));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(fault), "{found:?}");
    }
    let others = [JWT[0], JWT[2], JWT[3], "api.jwt.keys_file=/nowhere/keys.json"];
    let found = problems(&with_set(&others), None);
    let cause = "names /nowhere/keys.json, which cannot be read: No such file or directory";
    assert!(found.len() == 1 && found[0].contains(cause), "{found:?}");
}

#[test]
fn settings_of_tokens_have_a_use() {
    let unused = " is set while api.identity is \"trusted\"; set api.identity = \"jwt\", or leave it out \
                  (--set)";
    let set = [
        "api.jwt.keys_file=/nowhere",
        JWT[1],
        "api.jwt.ca_file=/nowhere",
        JWT[2],
        JWT[3],
        "api.jwt.claim=email",
        "api.jwt.leeway=0s",
    ];
    let expected: Vec<_> = set
        .iter()
        .map(|set| format!("{}:{unused}", set.split('=').next().unwrap_or_default()))
        .collect();
    assert_eq!(problems(&with_set(&set), None), expected);
}

#[test]
fn authorities_are_for_https() {
    let set = [
        JWT[0],
        "api.jwt.jwks_url=http://[::1]:80/keys",
        JWT[2],
        JWT[3],
        "api.jwt.ca_file=/nowhere",
    ];
    let found = problems(&with_set(&set), None);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(
        found[0],
        "api.jwt.ca_file: is set while api.jwt.jwks_url is no https:// URL; set api.jwt.jwks_url to such a \
         URL, or leave it out (--set)"
    );
}

#[test]
fn off_loopback_a_header_needs_a_gateway() {
    check_set(
        &["api.listen=0.0.0.0:8080", "api.identity=header:x-user", "api.trust_network=true"],
        &[
            "api.identity: is \"header:x-user\" while api.listen is 0.0.0.0:8080, which is not loopback, \
           and nothing proves that a request comes from the gateway: any client could set the header; \
           set api.gateway_token_file and let the gateway send the token as X-Coupond-Gateway, or set \
           api.tls.client_ca_file, or api.listen to an address of loopback (--set)",
        ],
    );
    check_set(
        &[
            "api.listen=0.0.0.0:8080",
            "api.identity=header:x-user",
            "api.gateway_token=fifteen-letters",
        ],
        &[
            "api.gateway_token: is shorter than 16 bytes while api.listen is 0.0.0.0:8080, which is not \
           loopback; generate a token, for example with `openssl rand -hex 32` (--set)",
        ],
    );
    check_set(
        &["api.gateway_token=\u{fc}"],
        &[
            "api.gateway_token: is 2 bytes long, must be 1 to 1,024 visible ASCII characters without \
           spaces; generate one, for example with `openssl rand -hex 32` (--set)",
        ],
    );
}
