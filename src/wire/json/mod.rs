//! A pull scanner for JSON that allocates nothing and builds nothing.
//!
//! Every event of every stream is read by it, so it does only what reading a chunk needs: walk the members of an
//! object, look at the few that matter, step over the rest, and notice when the text is not JSON at all. It accepts
//! exactly what RFC 8259 accepts, with two tolerances that the data path wants: bytes above 0x7F are not checked to be
//! UTF-8, and a lone surrogate escape reads as U+FFFD, because a model may stop in the middle of a character.

mod text;

pub use text::{NameBuffer, Text, name_buffer, push_string};

/// The text is not JSON, from this byte on. Carries no content: it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed JSON at byte {at}")]
pub struct Malformed {
    /// Offset of the first byte that does not fit.
    pub at: usize,
}

/// What a value is, told by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `{…}`
    Object,
    /// `[…]`
    Array,
    /// `"…"`
    String,
    /// `1.5`
    Number,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
}

/// Values nested deeper than this are refused, as `serde_json` refuses them.
pub const DEPTH: u32 = 127;

/// Reads one JSON text from front to back.
#[derive(Debug, Clone)]
pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// A scanner before the first value of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut scanner = Self { bytes, at: 0, depth: 0 };
        scanner.space();
        scanner
    }

    /// Offset of the next unread byte: of a value, when asked before reading it.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.at
    }

    /// What the next value is.
    pub fn peek(&mut self) -> Result<Kind, Malformed> {
        match self.space() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            _ => Err(self.malformed()),
        }
    }

    /// Walks an object; `member` gets each key with the scanner before its value, and may leave the value unread.
    pub fn object<E: From<Malformed>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.open(b'{')?;
        if self.space() == Some(b'}') {
            self.close();
            return Ok(());
        }
        loop {
            let key = self.key()?;
            let before = self.at;
            member(self, key)?;
            if self.at == before {
                self.skip()?;
            }
            match self.space() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.malformed().into()),
            }
        }
        self.close();
        Ok(())
    }

    /// Walks an array; `element` gets the scanner before each element, and may leave it unread.
    pub fn array<E: From<Malformed>>(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.open(b'[')?;
        if self.space() == Some(b']') {
            self.close();
            return Ok(());
        }
        loop {
            self.space();
            let before = self.at;
            element(self)?;
            if self.at == before {
                self.skip()?;
            }
            match self.space() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.malformed().into()),
            }
        }
        self.close();
        Ok(())
    }

    /// Walks an object; steps over anything else. Tells whether it was an object.
    pub fn object_or_skip<E: From<Malformed>>(
        &mut self,
        member: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let is_object = self.peek()? == Kind::Object;
        if is_object {
            self.object(member)?;
        } else {
            self.skip()?;
        }
        Ok(is_object)
    }

    /// Walks an array; steps over anything else. Tells whether it was an array.
    pub fn array_or_skip<E: From<Malformed>>(
        &mut self,
        element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<bool, E> {
        let is_array = self.peek()? == Kind::Array;
        if is_array {
            self.array(element)?;
        } else {
            self.skip()?;
        }
        Ok(is_array)
    }

    /// A string's text; `None` when the value is something else, which is stepped over.
    pub fn text(&mut self) -> Result<Option<Text<'a>>, Malformed> {
        if self.space() == Some(b'"') {
            return self.string().map(Some);
        }
        self.skip().map(|()| None)
    }

    /// A whole number from 0; `None` when the value is something else, which is stepped over.
    pub fn count(&mut self) -> Result<Option<u64>, Malformed> {
        let start = self.at;
        let kind = self.peek()?;
        self.skip()?;
        if kind != Kind::Number {
            return Ok(None);
        }
        let digits = self.bytes.get(start..self.at).unwrap_or_default().trim_ascii();
        Ok(whole_number(digits))
    }

    /// A number; `None` when the value is something else, which is stepped over.
    pub fn decimal(&mut self) -> Result<Option<f64>, Malformed> {
        let kind = self.peek()?;
        let start = self.at;
        self.skip()?;
        if kind != Kind::Number {
            return Ok(None);
        }
        let digits = self.bytes.get(start..self.at).unwrap_or_default().trim_ascii();
        Ok(std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()))
    }

    /// `true` or `false`; `None` when the value is something else, which is stepped over.
    pub fn flag(&mut self) -> Result<Option<bool>, Malformed> {
        let first = self.space();
        self.skip()?;
        Ok(match first {
            Some(b't') => Some(true),
            Some(b'f') => Some(false),
            _ => None,
        })
    }

    /// Steps over one value of any kind, checking its form.
    #[inline]
    pub fn skip(&mut self) -> Result<(), Malformed> {
        match self.space() {
            Some(b'"') => self.string().map(|_| ()),
            Some(b'n') => self.literal(b"null"),
            Some(b'{' | b'[') => self.skip_nested(),
            _ => self.skip_other(),
        }
    }

    fn skip_other(&mut self) -> Result<(), Malformed> {
        match self.byte() {
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            _ => self.number(),
        }
    }

    /// Steps over an object or an array, without recursion.
    fn skip_nested(&mut self) -> Result<(), Malformed> {
        // One bit per open level: set for an object. As deep as `DEPTH`, so it always fits.
        let mut objects: u128 = 0;
        let outer = self.depth;
        loop {
            match self.space() {
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'{') => {
                    self.open(b'{')?;
                    if self.space() == Some(b'}') {
                        self.close();
                    } else {
                        objects = objects << 1 | 1;
                        self.key()?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.open(b'[')?;
                    if self.space() == Some(b']') {
                        self.close();
                    } else {
                        objects <<= 1;
                        continue;
                    }
                }
                Some(b'n') => self.literal(b"null")?,
                _ => self.skip_other()?,
            }
            if self.after_value(&mut objects, outer)? {
                return Ok(());
            }
        }
    }

    /// Nothing but white space may be left.
    pub fn end(&mut self) -> Result<(), Malformed> {
        if self.space().is_none() { Ok(()) } else { Err(self.malformed()) }
    }

    /// Closes what ends after a value inside [`skip_nested`](Self::skip_nested); true when the value that was asked for is over.
    fn after_value(&mut self, objects: &mut u128, outer: u32) -> Result<bool, Malformed> {
        loop {
            if self.depth == outer {
                return Ok(true);
            }
            let in_object = *objects & 1 == 1;
            match self.space() {
                Some(b',') => {
                    self.at += 1;
                    if in_object {
                        self.key()?;
                    }
                    return Ok(false);
                }
                Some(b'}') if in_object => {}
                Some(b']') if !in_object => {}
                _ => return Err(self.malformed()),
            }
            *objects >>= 1;
            self.close();
        }
    }

    #[inline]
    fn byte(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Steps over white space; the byte after it.
    #[inline]
    fn space(&mut self) -> Option<u8> {
        loop {
            match self.byte() {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other,
            }
        }
    }

    fn malformed(&self) -> Malformed {
        Malformed { at: self.at }
    }

    #[inline]
    fn open(&mut self, bracket: u8) -> Result<(), Malformed> {
        if self.space() != Some(bracket) || self.depth >= DEPTH {
            return Err(self.malformed());
        }
        self.at += 1;
        self.depth += 1;
        Ok(())
    }

    #[inline]
    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    /// A key and its colon; leaves the scanner at the first byte of the value.
    #[inline]
    fn key(&mut self) -> Result<Text<'a>, Malformed> {
        if self.space() != Some(b'"') {
            return Err(self.malformed());
        }
        let key = self.string()?;
        if self.space() != Some(b':') {
            return Err(self.malformed());
        }
        self.at += 1;
        self.space();
        Ok(key)
    }

    /// A string, from its opening quote.
    #[inline]
    fn string(&mut self) -> Result<Text<'a>, Malformed> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.plain();
            match self.byte() {
                Some(b'"') => {
                    let raw = self.bytes.get(start..self.at).unwrap_or_default();
                    self.at += 1;
                    return Ok(Text::new(raw, escaped));
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.malformed()),
            }
        }
    }

    /// Steps over the bytes of a string that mean themselves, eight at a time.
    #[inline]
    fn plain(&mut self) {
        while let Some(word) = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<8>()) {
            let special = special_bytes(u64::from_le_bytes(*word));
            if special != 0 {
                self.at += (special.trailing_zeros() / 8) as usize;
                return;
            }
            self.at += 8;
        }
        while let Some(byte) = self.byte() {
            if byte < 0x20 || byte == b'"' || byte == b'\\' {
                return;
            }
            self.at += 1;
        }
    }

    fn escape(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        match self.byte() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.byte().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.malformed());
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.malformed()),
        }
        Ok(())
    }

    #[inline]
    fn literal(&mut self, word: &[u8]) -> Result<(), Malformed> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word)) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.malformed())
    }

    fn number(&mut self) -> Result<(), Malformed> {
        if self.byte() == Some(b'-') {
            self.at += 1;
        }
        match self.byte() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.byte(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// At least one digit.
    fn digits(&mut self) -> Result<(), Malformed> {
        let start = self.at;
        while self.byte().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.malformed()) } else { Ok(()) }
    }
}

/// Marks, in the top bit of its byte, the first quote, backslash or control character of eight bytes; later marks may
/// be false, which is why only the lowest one is looked at.
#[inline]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    let quote = word ^ (ONES * u64::from(b'"'));
    let backslash = word ^ (ONES * u64::from(b'\\'));
    let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (zero(quote) | zero(backslash) | control) & TOPS
}

/// A whole number in decimal, also where it was written `12.0`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked: whole, and a float holds it exactly"
)]
fn whole_number(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    text.parse::<f64>().ok().filter(|n| (0.0..9.0e15).contains(n) && n.fract() == 0.0).map(|n| n as u64)
}

#[cfg(test)]
mod tests;
