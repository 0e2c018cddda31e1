//! A tokenizer from a file, for the length of synthetic prompts.
//!
//! The file is Hugging Face's `tokenizer.json`, which comes with every open model; their own library reads it.

use std::path::Path;

use super::request::PromptScale;

/// Why a file is no tokenizer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// It cannot be read, or is none.
    #[error("{file} is no tokenizer.json: {why}")]
    Unreadable {
        /// The file.
        file: String,
        /// What is wrong with it.
        why: String,
    },
    /// It makes of words what no prompt can be sized by.
    #[error("{file} makes {longer} tokens of 288 words and {shorter} of 32: that is no tokenizer of English text")]
    Useless {
        /// The file.
        file: String,
        /// Tokens of the shorter text.
        shorter: u64,
        /// Tokens of the longer one.
        longer: u64,
    },
}

/// Reads a `tokenizer.json`, or the folder that has one, and finds out how many tokens it makes of a word. `text` makes a
/// prompt of so many words.
///
/// # Errors
/// When there is none, or nothing can be sized by it.
pub fn scale_of(path: &Path, text: impl Fn(u32) -> String) -> Result<PromptScale, TokenizerError> {
    let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    let file = path.display().to_string();
    let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| TokenizerError::Unreadable {
        file: file.clone(),
        why: error.to_string(),
    };
    let tokenizer = tokenizers::Tokenizer::from_file(&path).map_err(unreadable)?;
    let count = |words: u32| -> Result<(u32, u64), TokenizerError> {
        let encoding = tokenizer.encode_fast(text(words), false).map_err(unreadable)?;
        Ok((words, encoding.len() as u64))
    };
    let [shorter, longer] = PromptScale::WORDS;
    let (shorter, longer) = (count(shorter)?, count(longer)?);
    PromptScale::through(shorter, longer).ok_or_else(|| TokenizerError::Useless {
        file: file.clone(),
        shorter: shorter.1,
        longer: longer.1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tokenizer of words, or one that cuts them by a pattern first.
    fn tokenizer(pre_tokenizer: &str) -> String {
        format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{pre_tokenizer},"post_processor":null,"decoder":null,"model":{{"type":"WordLevel","vocab":{{"[UNK]":0}},"unk_token":"[UNK]"}}}}"#
        )
    }

    fn words(count: u32) -> String {
        vec!["the"; count as usize].join(" ")
    }

    #[track_caller]
    fn check(text: &str, expected: Result<f64, &str>) {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tokenizer.json"), text).expect("written");
        let found = scale_of(folder.path(), words).map(|scale| scale.per_word).map_err(|error| error.to_string());
        match expected {
            Ok(per_word) => assert!(found.as_ref().is_ok_and(|found| (found - per_word).abs() < 1e-9), "{found:?}"),
            Err(part) => assert!(found.as_ref().is_err_and(|why| why.contains(part)), "{found:?}"),
        }
    }

    #[test]
    fn a_file_says_how_many_tokens_a_word_has() {
        check(&tokenizer(r#"{"type":"Whitespace"}"#), Ok(1.0));
        let letters = r#"{"type":"Split","pattern":{"Regex":"[a-z]"},"behavior":"Isolated","invert":false}"#;
        check(&tokenizer(letters), Ok(4.0));
    }

    #[test]
    fn what_is_no_tokenizer_is_named() {
        check("{}", Err("is no tokenizer.json"));
        check(&tokenizer("null"), Err("makes 1 tokens of 288 words and 1 of 32"));
        assert!(scale_of(Path::new("/nowhere"), words).is_err());
    }
}
