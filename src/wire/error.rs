//! Errors on the wire: those we write, and those we read.
//!
//! Of an error that is read, only its number and its type's name are kept: messages may quote the prompt.

use super::json::{Malformed, Scanner, Text, name_buffer, push_string};

/// Bytes of an error's name that are kept.
const LABEL: usize = 40;

/// An error object in a stream or in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamError {
    code: Option<u16>,
    label: [u8; LABEL],
    len: u8,
}

impl StreamError {
    /// An error that says nothing about itself.
    pub const UNKNOWN: Self = Self { code: None, label: [0; LABEL], len: 0 };

    /// The error's `code`, where it is a number.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// The name in `code`, else in `type`, else `unknown`. Letters, digits, `_`, `-`, `.` and spaces only.
    #[must_use]
    pub fn label(&self) -> &str {
        let label = self.label.get(..usize::from(self.len)).unwrap_or_default();
        std::str::from_utf8(label).ok().filter(|label| !label.is_empty()).unwrap_or("unknown")
    }

    /// The status this error stands for: its code, or what its type is sent with.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        if let Some(code) = self.code.filter(|code| (400..600).contains(code)) {
            return Some(code);
        }
        Some(match self.label() {
            "invalid_request_error" | "BadRequestError" | "context_length_exceeded" => 400,
            "authentication_error" | "invalid_api_key" => 401,
            "permission_error" => 403,
            "not_found_error" | "NotFoundError" | "model_not_found" => 404,
            "request_too_large" => 413,
            "rate_limit_error" | "rate_limit_exceeded" | "requests" | "tokens" | "insufficient_quota" => 429,
            "api_error" | "server_error" | "InternalServerError" => 500,
            "overloaded_error" | "overloaded" | "ServiceUnavailableError" | "Service Unavailable" => 503,
            _ => return None,
        })
    }

    /// Whether the error says "busy", not "broken".
    #[must_use]
    pub fn is_backpressure(&self) -> bool {
        matches!(self.status(), Some(429 | 503 | 529))
    }

    fn named(name: &[u8]) -> Self {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-. ".contains(byte);
        let mut error = Self::UNKNOWN;
        if name.iter().all(plain)
            && let Some(place) = error.label.get_mut(..name.len())
        {
            place.copy_from_slice(name);
            error.len = u8::try_from(name.len()).unwrap_or(0);
        }
        error
    }
}

/// The members of an error, collected from wherever a dialect puts them.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct ErrorFields<'a> {
    code: Option<u64>,
    code_name: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    /// Whether there was an error at all.
    pub(super) present: bool,
}

impl<'a> ErrorFields<'a> {
    /// Reads the value of an `error` key: an object, a text, or nothing.
    pub(super) fn read(&mut self, scanner: &mut Scanner<'a>) -> Result<(), Malformed> {
        use super::json::Kind;
        match scanner.peek()? {
            Kind::Null => scanner.skip(),
            Kind::Object => {
                self.present = true;
                // The error's own members win over those beside it.
                (self.code, self.code_name, self.kind) = (None, None, None);
                scanner.object(|scanner, key| self.member(scanner, key.name(&mut name_buffer())))
            }
            Kind::String => {
                self.present |= scanner.text()?.is_some_and(|text| !text.is_empty());
                Ok(())
            }
            Kind::Bool => {
                self.present |= scanner.flag()? == Some(true);
                Ok(())
            }
            Kind::Array | Kind::Number => {
                self.present = true;
                scanner.skip()
            }
        }
    }

    /// Reads one member of an error object, or of a flat error.
    pub(super) fn member(&mut self, scanner: &mut Scanner<'a>, key: &[u8]) -> Result<(), Malformed> {
        use super::json::Kind;
        match key {
            b"code" if scanner.peek()? == Kind::String => self.code_name = scanner.text()?,
            b"code" => self.code = scanner.count()?,
            b"type" => self.kind = scanner.text()?,
            _ => {}
        }
        Ok(())
    }

    /// The error, if there was one.
    pub(super) fn error(&self) -> Option<StreamError> {
        self.present.then(|| {
            let mut buffer = name_buffer();
            let name = self.code_name.filter(|name| !name.is_empty()).or(self.kind);
            let name = name.map(|name| name.name(&mut buffer)).unwrap_or_default();
            let digits = std::str::from_utf8(name).ok().and_then(|digits| digits.parse().ok());
            let code = self.code.or(digits).and_then(|code| u16::try_from(code).ok());
            StreamError { code, ..StreamError::named(name) }
        })
    }
}

/// Reads the error in a body that should be one, nested or flat.
///
/// # Errors
/// When the body is not JSON.
pub fn read_error(body: &[u8]) -> Result<Option<StreamError>, Malformed> {
    let mut scanner = Scanner::new(body);
    let mut fields = ErrorFields::default();
    let mut nested = false;
    scanner.object_or_skip(|scanner, key| {
        let mut buffer = name_buffer();
        match key.name(&mut buffer) {
            b"error" => {
                fields.read(scanner)?;
                nested = fields.present;
            }
            b"object" => fields.present |= scanner.text()?.is_some_and(|text| text.raw() == b"error"),
            other if !nested => fields.member(scanner, other)?,
            _ => {}
        }
        Ok::<(), Malformed>(())
    })?;
    scanner.end()?;
    Ok(fields.error())
}

/// An error in the words of the OpenAI API: `{"error":{"message","type","param","code"}}`.
#[must_use]
pub fn error_body(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + message.len() + kind.len());
    body.extend_from_slice(b"{\"error\":{\"message\":");
    push_string(&mut body, message);
    body.extend_from_slice(b",\"type\":");
    push_string(&mut body, kind);
    for (key, value) in [(&b",\"param\":"[..], param), (b",\"code\":", code)] {
        body.extend_from_slice(key);
        match value {
            Some(value) => push_string(&mut body, value),
            None => body.extend_from_slice(b"null"),
        }
    }
    body.extend_from_slice(b"}}");
    body
}

/// The same as one event of a stream: `data: {…}` and a blank line.
#[must_use]
pub fn error_event(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Vec<u8> {
    let mut event = b"data: ".to_vec();
    event.extend(error_body(message, kind, param, code));
    event.extend_from_slice(b"\n\n");
    event
}

/// A body's error, nested or flat, as it stands, as one event of a stream; `None` when it has none that says something.
#[must_use]
pub fn error_as_event(body: &[u8]) -> Option<Vec<u8>> {
    use super::json::Kind;
    let mut scanner = Scanner::new(body);
    let (mut nested, mut speaks) = (None, false);
    let members = scanner.object_or_skip(|scanner, key| {
        match key.name(&mut name_buffer()) {
            b"error" if scanner.peek()? == Kind::Object => {
                let from = scanner.offset();
                scanner.skip()?;
                nested = body.get(from..scanner.offset());
            }
            b"message" if scanner.peek()? == Kind::String => {
                speaks = true;
                scanner.skip()?;
            }
            _ => scanner.skip()?,
        }
        Ok::<(), Malformed>(())
    });
    members.and_then(|_was_object| scanner.end()).ok()?;
    let error = nested.or(Some(body).filter(|_| speaks))?;
    // Between the members of an object only: within a text, an end of line is escaped.
    let in_one_line = error.iter().map(|&byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte });
    Some(b"data: {\"error\":".iter().copied().chain(in_one_line).chain(*b"}\n\n").collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, expected: Option<(Option<u16>, &str, Option<u16>)>) {
        let error = read_error(body.as_bytes()).expect("JSON");
        let seen = error.as_ref().map(|error| (error.code(), error.label(), error.status()));
        assert_eq!(seen, expected, "{body}");
    }

    #[test]
    fn an_error_is_read_nested_and_flat() {
        check(
            r#"{"error":{"message":"m","type":"BadRequestError","param":null,"code":400}}"#,
            Some((Some(400), "BadRequestError", Some(400))),
        );
        check(
            r#"{"object":"error","message":"m","type":"NotFoundError","param":"model","code":404}"#,
            Some((Some(404), "NotFoundError", Some(404))),
        );
        check(r#"{"error":"Unauthorized"}"#, Some((None, "unknown", None)));
        check(
            r#"{"type":"error","error":{"type":"overloaded_error","message":".."}}"#,
            Some((None, "overloaded_error", Some(503))),
        );
        check(
            r#"{"error":{"code":"rate_limit_exceeded","type":"requests"}}"#,
            Some((None, "rate_limit_exceeded", Some(429))),
        );
        check(r#"{"error":{"code":"503"}}"#, Some((Some(503), "503", Some(503))));
        check(r#"{"error":null,"choices":[]}"#, None);
        check(r#"{"error":{"type":"<b>quoted prompt</b>"}}"#, Some((None, "unknown", None)));
        check("[1]", None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body =
            error_body("no \"such\"\n\u{1}model", "invalid_request_error", Some("model"), Some("model_not_found"));
        let value: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!(value["error"]["message"], "no \"such\"\n\u{1}model");
        assert_eq!(value["error"]["param"], "model");
        assert_eq!(read_error(&body).expect("JSON").expect("an error").label(), "model_not_found");
        let event = error_event("m", "server_error", None, None);
        assert_eq!(
            event,
            b"data: {\"error\":{\"message\":\"m\",\"type\":\"server_error\",\"param\":null,\"code\":null}}\n\n"
        );
    }

    #[test]
    fn a_bodys_error_becomes_an_event_as_it_stands() {
        let event = |body: &str| error_as_event(body.as_bytes()).map(|event| String::from_utf8(event).unwrap());
        let told = |error: &str| Some(format!("data: {{\"error\":{error}}}\n\n"));
        let error = r#"{"message":"too\nlong","type":"BadRequestError","code":400,"more":[1]}"#;
        assert_eq!(event(&format!("{{\"id\":1,\"error\":{error}}}")), told(error));
        assert_eq!(event(error), told(error));
        assert_eq!(event("{\"error\": {\r\n\"message\":\n\"m\"}\n}"), told("{  \"message\": \"m\"}"));
        for nothing in ["", "no", "[]", "{}", r#"{"detail":"m"}"#, r#"{"error":"m"}"#, r#"{"message":"m""#] {
            assert_eq!(event(nothing), None, "{nothing}");
        }
    }
}
