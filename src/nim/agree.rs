//! Whether the profile that a configuration names is the one that a NIM says it runs.

use super::id::ProfileId;
use super::name::ProfileName;

/// What came of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agreement {
    /// They are the same, as far as both are known.
    Same,
    /// They are not.
    Differs,
    /// One is an id and the other a name: an id says nothing of its parts.
    Unknown,
}

/// Compares what is configured, by its name, its id or both, with what a NIM reports: an id, or in the model-independent
/// image a name.
#[must_use]
pub fn agreement(configured: &ProfileName, id: Option<&ProfileId>, reported: &ProfileName) -> Agreement {
    match (id.or(configured.id()), reported.id()) {
        (Some(one), Some(other)) if one == other => Agreement::Same,
        (Some(_), Some(_)) => Agreement::Differs,
        (None, None) => by_parts(configured, reported),
        _ => Agreement::Unknown,
    }
}

/// Names are the same when no part that both state differs; releases spell the rest in more or fewer parts.
fn by_parts(configured: &ProfileName, reported: &ProfileName) -> Agreement {
    if configured.as_str().eq_ignore_ascii_case(reported.as_str()) {
        return Agreement::Same;
    }
    let (one, other) = (configured.profile(), reported.profile());
    let compared = [
        both(one.engine, other.engine),
        both(one.gpu.as_deref(), other.gpu.as_deref()),
        both(one.precision, other.precision),
        both(one.tensor_parallel, other.tensor_parallel),
        both(one.pipeline_parallel, other.pipeline_parallel),
        both(one.target, other.target),
    ];
    match (compared.contains(&Some(false)), compared.contains(&Some(true))) {
        (true, _) => Agreement::Differs,
        (false, true) => Agreement::Same,
        (false, false) => Agreement::Unknown,
    }
}

/// Whether a part is the same, where both state it.
fn both<T: PartialEq>(one: Option<T>, other: Option<T>) -> Option<bool> {
    Some(one? == other?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";
    const OTHER: &str = "8835c31752fbc67ef658b20a9f78e056914fdef0660206d82f252d62fd96064d";

    #[track_caller]
    fn check(configured: &str, id: Option<&str>, reported: &str, expected: Agreement) {
        let id = id.and_then(ProfileId::parse);
        let found = agreement(&ProfileName::parse(configured), id.as_ref(), &ProfileName::parse(reported));
        assert_eq!(found, expected, "{configured} and {reported}");
    }

    #[test]
    fn ids_are_compared_as_ids_and_names_by_the_parts_that_both_state() {
        check(ONE, None, ONE, Agreement::Same);
        check(ONE, None, &ONE.to_uppercase(), Agreement::Same);
        check(ONE, None, OTHER, Agreement::Differs);
        check("vllm-fp16-tp1", Some(ONE), OTHER, Agreement::Differs);
        check("vllm-fp16-tp1", None, OTHER, Agreement::Unknown);
        check(ONE, None, "vllm", Agreement::Unknown);
        check("vllm-fp16-tp1", None, "vllm", Agreement::Same);
        check("vllm-fp16-tp1", None, "tensorrt_llm", Agreement::Differs);
        check("vllm-fp16-tp1", None, "vllm-fp16-tp2-pp1", Agreement::Differs);
        check("our-own-name", None, "vllm", Agreement::Unknown);
    }
}
