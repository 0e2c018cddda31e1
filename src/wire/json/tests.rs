use proptest::prelude::*;
use serde::de::IgnoredAny;

use super::*;

fn is_json(bytes: &[u8]) -> bool {
    let mut scanner = Scanner::new(bytes);
    scanner.skip().and_then(|()| scanner.end()).is_ok()
}

/// Walks everything through the closures, as the dialects do, and rebuilds the value.
fn rebuild(scanner: &mut Scanner<'_>) -> Result<serde_json::Value, Malformed> {
    use serde_json::Value;
    Ok(match scanner.peek()? {
        Kind::Null => scanner.skip().map(|()| Value::Null)?,
        Kind::Bool => scanner.flag()?.into(),
        Kind::Number => scanner.count()?.into(),
        Kind::String => scanner.text()?.map(|text| text.to_owned_string()).into(),
        Kind::Array => {
            let mut values = Vec::new();
            scanner.array(|scanner| {
                values.push(rebuild(scanner)?);
                Ok::<(), Malformed>(())
            })?;
            Value::Array(values)
        }
        Kind::Object => {
            let mut members = serde_json::Map::new();
            scanner.object(|scanner, key| {
                members.insert(key.to_owned_string(), rebuild(scanner)?);
                Ok::<(), Malformed>(())
            })?;
            Value::Object(members)
        }
    })
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_u64..1 << 53).prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z\"\\\\/\u{8}-\u{20}é🚀]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

#[track_caller]
fn agree(bytes: &[u8]) {
    let theirs = serde_json::from_slice::<IgnoredAny>(bytes).is_ok();
    assert_eq!(is_json(bytes), theirs, "{:?}", String::from_utf8_lossy(bytes));
}

proptest! {
    #[test]
    fn every_value_is_read_as_serde_json_reads_it(value in any_json(), pretty in any::<bool>()) {
        let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
        let text = text.unwrap();
        let mut scanner = Scanner::new(text.as_bytes());
        prop_assert_eq!(rebuild(&mut scanner).unwrap(), value);
        prop_assert!(scanner.end().is_ok());
    }

    #[test]
    fn what_is_malformed_for_serde_json_is_malformed(
        value in any_json(),
        at in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u0-.eE tfn".to_vec())],
        change in 0_u8..3,
    ) {
        let mut text = serde_json::to_vec(&value).unwrap();
        let at = at.index(text.len());
        match change {
            0 => text[at] = byte,
            1 => text.insert(at, byte),
            _ => text.truncate(at),
        }
        agree(&text);
    }

    #[test]
    fn short_texts_of_the_grammars_own_bytes_are_judged_alike(text in "[\\[\\]{}\",:\\\\u0-2.eE+ \\-truefalsn]{0,12}") {
        agree(text.as_bytes());
    }

    #[test]
    fn a_string_that_is_written_is_read_back(text in any::<String>()) {
        let mut written = Vec::new();
        push_string(&mut written, &text);
        prop_assert_eq!(serde_json::from_slice::<String>(&written).unwrap(), text.clone());
        let read = Scanner::new(&written).text().unwrap().unwrap();
        prop_assert_eq!(read.unescaped_len(), text.len());
        let short = text.len() <= name_buffer().len();
        let name = if short || !written.contains(&b'\\') { text.as_bytes() } else { &[] };
        let mut buffer = name_buffer();
        prop_assert_eq!(read.name(&mut buffer), name);
    }
}

#[test]
fn numbers_and_literals_are_judged_alike() {
    for text in [
        "0",
        "-0",
        "01",
        "1.",
        ".5",
        "1e",
        "1e5",
        "1E-5",
        "-",
        "--1",
        "+1",
        "1.5e+10",
        "nul",
        "nulll",
        "true",
        "TRUE",
        "\"\\ud83d\"",
        "\"\\uD83\"",
        "\"\t\"",
        "",
        " ",
        "1 2",
        "[1,]",
        "{\"a\":1,}",
        "{,}",
        "{\"a\"}",
        "[",
        "\"",
        "\"\\",
    ] {
        agree(text.as_bytes());
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(is_json(nested(127).as_bytes()));
    assert!(!is_json(nested(128).as_bytes()));
    assert!(!is_json("[".repeat(1_000_000).as_bytes()));
    assert!(rebuild(&mut Scanner::new("{\"a\":[".repeat(100_000).as_bytes())).is_err());
}

#[test]
fn whole_numbers_are_counts_and_others_are_not() {
    let count = |text: &str| Scanner::new(text.as_bytes()).count().unwrap();
    assert_eq!(count("12"), Some(12));
    assert_eq!(count("12.0"), Some(12));
    assert_eq!(count("1e3"), Some(1000));
    for other in ["-1", "1.5", "\"1\"", "null", "[1]", "1e300"] {
        assert_eq!(count(other), None, "{other}");
    }
}
