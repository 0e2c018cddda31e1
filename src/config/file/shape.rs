//! What a configuration may look like, as data.
//!
//! One table (in `keys`) says which keys there are, what each holds and what it is for. The checker, the suggestions,
//! the refusal of keys that are not built yet and the JSON Schema all read this table, so they cannot disagree.

use super::scalar::{self, Wrong};

/// What may stand in a place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    /// A mapping with these keys.
    Map(&'static [Key]),
    /// A mapping whose keys are free, of the first kind, and whose values have the second shape.
    Table(Kind, &'static Shape),
    /// A list.
    List(&'static Shape),
    /// A single value.
    One(Kind),
    /// A single value, or a mapping with these keys.
    OneOrMap(Kind, &'static [Key]),
}

/// One key of a mapping.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) use_: Use,
    pub(super) shape: Shape,
    /// What it is for; the description in the JSON Schema.
    pub(super) doc: &'static str,
}

/// Whether a key must, may or cannot be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// The mapping makes no sense without it.
    Required,
    /// There is a default.
    Optional,
    /// Reserved for a part that is not built yet: refused by name.
    NotBuilt,
}

/// What a single value means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// Any text that is not empty.
    Text,
    /// A name that becomes a metric label.
    Name,
    /// A time with its unit, not zero.
    Duration,
    /// A time with its unit.
    DurationOrZero,
    /// A number of bytes with its unit.
    Size,
    /// `5%` or `0.05`.
    Share,
    /// `true` or `false`.
    Switch,
    /// A whole number within these bounds.
    Integer(u64, u64),
    /// An amount of money.
    Money,
    /// One of these words.
    Choice(fn() -> Vec<&'static str>),
    /// `http://` or `https://`.
    Url,
    /// Address and port to listen on.
    Address,
    /// A network such as `10.0.0.0/8`.
    Network,
    /// A path in an URL.
    UrlPath,
    /// A page's address with a place for a trace's id.
    TraceUrl,
    /// A file, relative to the configuration's folder.
    File,
    /// The name of a header field.
    HeaderName,
    /// A credential.
    Secret,
    /// A number of threads, or `auto`.
    Threads,
    /// `p95`.
    Quantile,
    /// `2026-01-31`, or an instant of that day.
    Date,
    /// A GPU: `0`, `GPU-…`, `MIG-…` or `0/7`.
    Gpu,
    /// `600` or `200k`, not zero.
    Count,
    /// The SHA-256 of a secret, in hexadecimal.
    Sha256,
    /// A web page's origin, or `*`.
    Origin,
}

impl Key {
    pub(super) const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { name, use_: Use::Required, shape, doc }
    }

    pub(super) const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Self {
        Self { name, use_: Use::Optional, shape, doc }
    }

    pub(super) const fn one(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self::optional(name, Shape::One(kind), doc)
    }

    pub(super) const fn not_built(name: &'static str) -> Self {
        Self { name, use_: Use::NotBuilt, shape: Shape::One(Kind::Text), doc: "Not built yet in this version." }
    }
}

impl Shape {
    /// The keys of a mapping; none where keys are free.
    pub(super) fn keys(&self) -> &'static [Key] {
        match *self {
            Self::Map(keys) | Self::OneOrMap(_, keys) => keys,
            Self::Table(..) | Self::List(_) | Self::One(_) => &[],
        }
    }

    /// What should stand there, in a message.
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Map(_) | Self::Table(..) => "a mapping".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::One(kind) => kind.expected().to_owned(),
            Self::OneOrMap(kind, _) => format!("{} or a mapping", kind.expected()),
        }
    }

    /// How it is written, in a hint.
    pub(super) fn example(&self) -> String {
        match self {
            Self::Map(keys) => {
                let names: Vec<_> =
                    keys.iter().filter(|key| key.use_ != Use::NotBuilt).map(|key| format!("`{}`", key.name)).collect();
                format!("write a mapping with {}", names.join(", "))
            }
            Self::Table(..) => "write a mapping, such as `{ key: value }`".to_owned(),
            Self::List(_) => "write a list, such as `[a, b]`".to_owned(),
            Self::One(kind) | Self::OneOrMap(kind, _) => format!("such as {}", kind.example()),
        }
    }
}

impl Kind {
    /// What it is called in a message.
    pub(super) fn expected(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Name => "a name",
            Self::Duration | Self::DurationOrZero => "a duration",
            Self::Size => "a size",
            Self::Share => "a share",
            Self::Switch => "`true` or `false`",
            Self::Integer(..) => "a whole number",
            Self::Money => "an amount",
            Self::Choice(_) => "one of a few words",
            Self::Url => "a URL",
            Self::Address => "an address with a port",
            Self::Network => "a network",
            Self::UrlPath => "a URL path",
            Self::TraceUrl => "the address of traces",
            Self::File => "a file path",
            Self::HeaderName => "a header name",
            Self::Secret => "a secret",
            Self::Threads => "a number of threads or `auto`",
            Self::Quantile => "a quantile",
            Self::Date => "a date",
            Self::Gpu => "a GPU",
            Self::Count => "a number",
            Self::Sha256 => "a SHA-256 digest",
            Self::Origin => "an origin",
        }
    }

    /// A value that would be right.
    pub(super) fn example(self) -> String {
        match self {
            Self::Text | Self::Name => "`chat`".to_owned(),
            Self::Duration | Self::DurationOrZero => "`300ms`, `2s` or `10m`".to_owned(),
            Self::Size => "`32MiB` or `64KiB`".to_owned(),
            Self::Share => "`5%` or `0.05`".to_owned(),
            Self::Switch => "`true`".to_owned(),
            Self::Integer(low, high) => format!("a number from {low} to {high}"),
            Self::Money => "`4.00`".to_owned(),
            Self::Choice(words) => words().iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Self::Url => "`http://10.0.0.11:8000`".to_owned(),
            Self::Address => "`127.0.0.1:8080` or `[::1]:8080`".to_owned(),
            Self::Network => "`10.0.0.0/8`".to_owned(),
            Self::UrlPath => "`/v1/chat/completions`".to_owned(),
            Self::TraceUrl => "`http://jaeger:16686/trace/{trace_id}`".to_owned(),
            Self::File => "`/etc/headway/tls.crt`".to_owned(),
            Self::HeaderName => "`x-tier`".to_owned(),
            Self::Secret => "`\"${NIM_KEY}\"` or `{ file: /run/secrets/nim }`".to_owned(),
            Self::Threads => "`auto` or `4`".to_owned(),
            Self::Quantile => "`p95`".to_owned(),
            Self::Date => "`2026-01-31`".to_owned(),
            Self::Gpu => "`0`, `GPU-8f6a2c1e-…`, `MIG-5c89852c-…` or `0/7`".to_owned(),
            Self::Count => "`600` or `200k`".to_owned(),
            Self::Sha256 => "64 hexadecimal digits".to_owned(),
            Self::Origin => "`https://app.example.com`".to_owned(),
        }
    }

    /// Whether `text` can be this.
    pub(super) fn verify(self, text: &str) -> Result<(), Wrong> {
        match self {
            Self::Text | Self::File => scalar::text(text).map(drop),
            Self::Name => scalar::name(text).map(drop),
            Self::Duration => scalar::duration(text).map(drop),
            Self::DurationOrZero => scalar::duration_or_zero(text).map(drop),
            Self::Size => scalar::size(text).map(drop),
            Self::Share => scalar::share(text).map(drop),
            Self::Switch => scalar::switch(text).map(drop),
            Self::Integer(low, high) => scalar::integer(text, low, high).map(drop),
            Self::Money => scalar::money(text).map(drop),
            Self::Choice(words) => scalar::choice(text, &words()).map(drop),
            Self::Url => scalar::url(text).map(drop),
            Self::Address => scalar::address(text).map(drop),
            Self::Network => scalar::network(text).map(drop),
            Self::UrlPath => scalar::url_path(text).map(drop),
            Self::TraceUrl => scalar::trace_url(text).map(drop),
            Self::HeaderName => scalar::header_name(text).map(drop),
            Self::Secret => scalar::secret(text).map(drop),
            Self::Threads => scalar::threads(text).map(drop),
            Self::Quantile => scalar::quantile(text).map(drop),
            Self::Date => scalar::date(text).map(drop),
            Self::Gpu => scalar::gpu(text).map(drop),
            Self::Count => scalar::count(text).map(drop),
            Self::Sha256 => scalar::sha256(text).map(drop),
            Self::Origin => scalar::origin(text).map(drop),
        }
    }

    /// Whether messages must not show the value.
    pub(super) fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Sha256)
    }
}
