//! A profile's id: the SHA-256 of its contents.

use std::fmt;

/// Hexadecimal digits of a whole id.
const WHOLE: usize = 64;
/// Fewest digits by which an abbreviated id is taken for one.
const FEWEST: usize = 4;

/// The id of a profile, in lower case. Documents often show only its beginning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProfileId {
    digits: Box<str>,
}

impl ProfileId {
    /// Reads a whole id: 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == WHOLE && is_hex(text)).then(|| Self { digits: text.to_ascii_lowercase().into() })
    }

    /// Reads a whole id, or the beginning of one that ends with `...` or `…`.
    #[must_use]
    pub fn parse_abbreviated(text: &str) -> Option<Self> {
        let cut = text.trim_end_matches(['.', '…']);
        let abbreviated = cut.len() < text.len() && cut.len() >= FEWEST && cut.len() < WHOLE && is_hex(cut);
        if abbreviated { Some(Self { digits: cut.to_ascii_lowercase().into() }) } else { Self::parse(text) }
    }

    /// Whether all of it is known, so that NIM would take it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.digits.len() == WHOLE
    }

    /// Its digits, as many as are known.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.digits
    }

    /// The first eight digits, enough for people to tell profiles apart.
    #[must_use]
    pub fn short(&self) -> &str {
        self.digits.get(..8).unwrap_or(&self.digits)
    }

    /// Whether both may be the same id: equal as far as both are known.
    #[must_use]
    pub fn agrees(&self, other: &Self) -> bool {
        let known = self.digits.len().min(other.digits.len());
        self.digits.get(..known) == other.digits.get(..known)
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.digits)?;
        if self.is_whole() { Ok(()) } else { f.write_str("…") }
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "751382df4272eafc83f541f364d61b35aed9cce8c7b0c869269cea5a366cd08c";

    #[test]
    fn an_id_is_64_hexadecimal_digits_or_the_beginning_of_them() {
        let whole = ProfileId::parse(ID).expect("an id");
        assert_eq!(ProfileId::parse(&ID.to_uppercase()).as_ref(), Some(&whole));
        assert!(whole.is_whole() && whole.short() == "751382df");
        let cut = ProfileId::parse_abbreviated("751382df...").expect("its beginning");
        assert!(!cut.is_whole() && cut.agrees(&whole) && cut.to_string() == "751382df…");
        for text in ["", "751382df", "75...", "vllm", "vllm...", &ID[1..], &format!("{ID}0"), "…"] {
            assert_eq!(ProfileId::parse_abbreviated(text), None, "{text}");
        }
    }
}
