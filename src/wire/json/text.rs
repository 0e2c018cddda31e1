//! Strings of JSON: compared and measured in place, copied only on request.

/// A string of the scanned text, still as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

/// Room for every key and every word that is compared.
pub type NameBuffer = [u8; 48];

/// A buffer for [`Text::name`].
#[inline]
#[must_use]
pub fn name_buffer() -> NameBuffer {
    [0; 48]
}

impl<'a> Text<'a> {
    pub(super) fn new(raw: &'a [u8], escaped: bool) -> Self {
        Self { raw, escaped }
    }

    /// A string that was scanned before, by the bytes between its quotes.
    #[must_use]
    pub fn scanned(raw: &'a [u8]) -> Self {
        Self { raw, escaped: memchr::memchr(b'\\', raw).is_some() }
    }

    /// Whether there is no character at all.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The bytes between the quotes, as written.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The text, unescaped into `buffer` where needed; empty when it is escaped and longer than the buffer.
    #[inline]
    #[must_use]
    pub fn name<'b>(&self, buffer: &'b mut NameBuffer) -> &'b [u8]
    where
        'a: 'b,
    {
        if self.escaped { self.unescape_into(buffer) } else { self.raw }
    }

    /// The text as a string; what is not UTF-8 is replaced.
    #[must_use]
    pub fn to_owned_string(&self) -> String {
        if !self.escaped {
            return String::from_utf8_lossy(self.raw).into_owned();
        }
        let mut bytes = Vec::with_capacity(self.raw.len());
        self.unescape(|part| bytes.extend_from_slice(part));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Bytes of the text in UTF-8, unescaped.
    #[must_use]
    pub fn unescaped_len(&self) -> usize {
        if !self.escaped {
            return self.raw.len();
        }
        let mut len = 0;
        self.unescape(|part| len += part.len());
        len
    }

    fn unescape_into<'b>(&self, buffer: &'b mut NameBuffer) -> &'b [u8] {
        let mut len = 0;
        let mut fits = true;
        self.unescape(|part| match buffer.get_mut(len..len + part.len()) {
            Some(place) => {
                place.copy_from_slice(part);
                len += part.len();
            }
            None => fits = false,
        });
        buffer.get(..len).filter(|_| fits).unwrap_or_default()
    }

    /// Feeds the text piece by piece, unescaped. The form was checked when it was scanned.
    pub fn unescape(&self, mut sink: impl FnMut(&[u8])) {
        let mut rest = self.raw;
        while let Some(at) = memchr::memchr(b'\\', rest) {
            let (plain, escape) = rest.split_at(at);
            if !plain.is_empty() {
                sink(plain);
            }
            let (character, len) = unescape_one(escape);
            sink(character.encode_utf8(&mut [0; 4]).as_bytes());
            rest = escape.get(len..).unwrap_or_default();
        }
        if !rest.is_empty() {
            sink(rest);
        }
    }
}

/// The character of the escape at the front of `bytes`, and how many bytes it takes.
fn unescape_one(bytes: &[u8]) -> (char, usize) {
    let simple = match bytes.get(1) {
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unescape_unicode(bytes),
        Some(&other) => char::from(other),
        None => return (char::REPLACEMENT_CHARACTER, 1),
    };
    (simple, 2)
}

fn unescape_unicode(bytes: &[u8]) -> (char, usize) {
    let unit = |at: usize| {
        let escape = bytes.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        u32::from_str_radix(std::str::from_utf8(escape.get(2..)?).ok()?, 16).ok()
    };
    let high = unit(0).unwrap_or(0xFFFD);
    if (0xD800..0xDC00).contains(&high)
        && let Some(low @ 0xDC00..0xE000) = unit(6)
    {
        let code = 0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00);
        return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 12);
    }
    (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 6)
}

/// Appends `text` as a JSON string, quotes included.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in text.as_bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            b'\n' => out.extend(b"\\n"),
            b'\r' => out.extend(b"\\r"),
            b'\t' => out.extend(b"\\t"),
            0..0x20 => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend(b"\\u00");
                out.extend([digit(byte >> 4), digit(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
