//! The JSON Schema of the configuration, for editors; printed from the same table that judges files.
//!
//! Draft 7, which is what YAML editors read. Any single value may also be a text with `${NAME}` in it.

use serde_json::{Map, Value, json};

use super::keys;
use super::shape::{Key, Kind, Shape, Use};

/// The schema of the whole file.
pub(in crate::config) fn schema() -> Value {
    let mut root = of_shape(&keys::ROOT);
    if let Value::Object(fields) = &mut root {
        fields.insert("$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        fields.insert("title".to_owned(), json!("headway configuration"));
    }
    root
}

fn of_shape(shape: &Shape) -> Value {
    match shape {
        Shape::Map(keys) => of_keys(keys),
        Shape::Table(kind, inner) => json!({
            "type": "object",
            "propertyNames": name_pattern(*kind),
            "additionalProperties": of_shape(inner),
        }),
        Shape::List(inner) => json!({ "type": "array", "items": of_shape(inner) }),
        Shape::One(kind) => of_kind(*kind),
        Shape::OneOrMap(kind, keys) => json!({ "anyOf": [of_kind(*kind), of_keys(keys)] }),
    }
}

fn of_keys(keys: &[Key]) -> Value {
    let built = || keys.iter().filter(|key| key.use_ != Use::NotBuilt);
    let property = |key: &Key| {
        let mut value = of_shape(&key.shape);
        if let Value::Object(fields) = &mut value {
            fields.insert("description".to_owned(), json!(key.doc));
        }
        (key.name.to_owned(), value)
    };
    let required: Vec<_> = built().filter(|key| key.use_ == Use::Required).map(|key| key.name).collect();
    let mut schema = json!({
        "type": "object",
        "properties": built().map(property).collect::<Map<_, _>>(),
        "additionalProperties": false,
    });
    if let (Value::Object(fields), false) = (&mut schema, required.is_empty()) {
        fields.insert("required".to_owned(), json!(required));
    }
    schema
}

fn name_pattern(kind: Kind) -> Value {
    match kind {
        Kind::Quantile => json!({ "pattern": "^p[0-9]{1,2}(\\.[0-9]+)?$" }),
        _ => json!({ "minLength": 1 }),
    }
}

fn of_kind(kind: Kind) -> Value {
    let or_variable = |schema: Value| json!({ "anyOf": [schema, { "type": "string", "pattern": "\\$\\{" }] });
    let text = |pattern: &str| json!({ "type": "string", "pattern": format!("{pattern}|\\$\\{{") });
    match kind {
        Kind::Duration => text("^([0-9.]+(us|µs|ms|s|min|m|h|d) *)+$"),
        Kind::DurationOrZero => {
            json!({ "anyOf": [text("^([0-9.]+(us|µs|ms|s|min|m|h|d) *)+$"), { "const": 0 }] })
        }
        Kind::Size => text("^[0-9.]+(B|kB|KB|MB|GB|KiB|MiB|GiB)$"),
        Kind::Share => json!({ "anyOf": [text("^[0-9.]+ *%$"), { "type": "number", "minimum": 0, "maximum": 1 }] }),
        Kind::Switch => or_variable(json!({ "type": "boolean" })),
        Kind::Integer(low, high) => or_variable(json!({ "type": "integer", "minimum": low, "maximum": high })),
        Kind::Money => or_variable(json!({ "type": "number", "minimum": 0 })),
        Kind::Choice(words) => or_variable(json!({ "enum": words() })),
        Kind::Url => text("^https?://"),
        Kind::TraceUrl => text("^https?://.*\\{trace_id\\}"),
        Kind::UrlPath => text("^/"),
        Kind::Date => text("^[0-9]{4}-[0-9]{2}-[0-9]{2}"),
        Kind::Gpu => {
            json!({ "anyOf": [text("^([0-9]+(/[0-9]+)?|(GPU|MIG)-.+)$"), { "type": "integer", "minimum": 0 }] })
        }
        Kind::Count => json!({ "anyOf": [{ "type": "integer", "minimum": 1 }, text("^[0-9]+[kM]?$")] }),
        Kind::Sha256 => text("^[0-9a-fA-F]{64}$"),
        Kind::Origin => text("^(https?://[^/]+|\\*)$"),
        Kind::Name => text("^[A-Za-z0-9._-]{1,64}$"),
        Kind::Threads => {
            json!({ "anyOf": [{ "enum": ["auto"] }, or_variable(json!({ "type": "integer", "minimum": 1, "maximum": 1024 }))] })
        }
        Kind::Text | Kind::Address | Kind::Network | Kind::File | Kind::HeaderName | Kind::Secret | Kind::Quantile => {
            json!({ "type": "string", "minLength": 1 })
        }
    }
}
