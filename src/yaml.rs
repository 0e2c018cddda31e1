//! YAML as written: a tree in which every key and every value knows its place.
//!
//! The configuration, baselines and the manifests of NIMs are read by it. A typed deserializer stops at its first mistake and forgets where a value stood. This reader takes the parser's
//! events, so the whole file can be judged in one run. Everything that lets a small file grow large is bounded: depth,
//! nodes (aliases count as what they stand for).

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

/// Deepest nesting; the configuration itself needs six.
const MAX_DEPTH: usize = 32;
/// Most nodes of a file that people write, aliases expanded.
const MAX_NODES: usize = 50_000;

/// A step further in the path of a value: `routes[0].slo` and `ttft`. Keys are cut, so that a path stays one short line.
pub(crate) fn join(path: &str, key: &str) -> String {
    let key: String = key.chars().take(64).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// A place in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct At {
    /// Line, from 1.
    pub(crate) line: usize,
    /// Column in characters, from 1.
    pub(crate) column: usize,
    /// Characters to mark on that line.
    pub(crate) width: usize,
    /// Line on which it ends.
    pub(crate) last: usize,
}

/// A value and its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: At,
}

/// What stands there.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// Nothing: `key:` or `null`.
    Null,
    /// A text, quoted or not.
    Scalar(Scalar),
    /// `[a, b]`.
    List(Vec<Node>),
    /// `{a: b}`, in the order written, keys unique.
    Map(Vec<Entry>),
    /// Something that cannot be known or was already complained about: fits everywhere, says nothing.
    Unknown,
}

/// A text.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    /// Its characters, environment variables put in.
    pub(crate) text: String,
    /// As written, when a variable was put in.
    pub(crate) written: Option<String>,
}

/// One pair of a mapping.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) at: At,
    pub(crate) value: Node,
}

/// Something that is not the YAML we read.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) at: At,
    /// The field being read, filled in when the fault is kept.
    pub(crate) path: String,
    pub(crate) message: String,
    pub(crate) hint: &'static str,
}

impl Fault {
    fn new(at: At, message: String, hint: &'static str) -> Self {
        Self { at, path: String::new(), message, hint }
    }
}

impl Value {
    /// What it is, in a message.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Scalar(_) => "a single value",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Unknown => "an unknown value",
        }
    }
}

/// Reads one document. Faults that leave the rest readable come along with the tree; others come alone.
pub(crate) fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    read_within(text, MAX_NODES)
}

/// The same for files that programs write: as many nodes as the caller has memory for.
pub(crate) fn read_within(text: &str, most_nodes: usize) -> (Option<Node>, Vec<Fault>) {
    let options = granit_parser::options! { emit_comments: false, block_nesting_limit: 64, flow_nesting_limit: 64 };
    let mut reader = Reader {
        events: Parser::new_from_str_with_options(text, options),
        anchors: HashMap::new(),
        nodes: 0,
        most_nodes,
        path: Vec::new(),
        faults: Vec::new(),
    };
    let root = match reader.document() {
        Ok(root) => root,
        Err(fault) => {
            reader.report(fault);
            None
        }
    };
    (root, reader.faults)
}

struct Reader<'a, I: granit_parser::BorrowedInput<'a>> {
    events: Parser<'a, I>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    most_nodes: usize,
    /// Steps from the root to the value being read; after a fault, to the value that could not be read.
    path: Vec<Step>,
    faults: Vec<Fault>,
}

enum Step {
    Key(String),
    Index(usize),
}

impl<'a, I: granit_parser::BorrowedInput<'a>> Reader<'a, I> {
    fn document(&mut self) -> Result<Option<Node>, Fault> {
        let mut root = None;
        while let Some((event, at)) = self.next()? {
            match event {
                Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
                Event::DocumentStart(..) if root.is_none() => {}
                Event::DocumentStart(..) => {
                    let message = "a second document begins here".to_owned();
                    return Err(Fault {
                        at,
                        path: String::new(),
                        message,
                        hint: "a configuration is one document; remove the `---`",
                    });
                }
                event => root = Some(self.node(event, at, 0)?),
            }
        }
        Ok(root)
    }

    /// The next event; comments are none.
    fn next(&mut self) -> Result<Option<(Event<'a>, At)>, Fault> {
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => Ok(Some((event, place(&span)))),
            Some(Err(error)) => {
                let marker = error.marker();
                let line = marker.line().max(1);
                let at = At { line, column: marker.col() + 1, width: 1, last: line };
                let message = format!("not valid YAML: {}", error.info());
                Err(Fault {
                    at,
                    path: String::new(),
                    message,
                    hint: "look for wrong indentation, a missing `:`, quote or bracket",
                })
            }
        }
    }

    /// The event that must follow.
    fn expect(&mut self, at: At) -> Result<(Event<'a>, At), Fault> {
        let end = || Fault::new(at, "the file ends here".to_owned(), "was it written completely?");
        self.next()?.ok_or_else(end)
    }

    fn node(&mut self, event: Event<'a>, at: At, depth: usize) -> Result<Node, Fault> {
        self.count(1, at)?;
        if depth > MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} deep");
            return Err(Fault::new(at, message, "no part of the configuration needs that"));
        }
        let tagged = event.tag().is_some();
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(_, anchor, _) => (self.list(at, depth)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.map(at, depth)?, anchor),
            Event::Alias(target) => return self.alias(target, at),
            _ => (Value::Null, 0),
        };
        if tagged {
            let message = "YAML tags have no meaning here".to_owned();
            self.report(Fault::new(at, message, "remove the `!…`"));
        }
        let node = Node { value, at };
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, at: At, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            match self.expect(at)? {
                (Event::SequenceEnd, _) => return Ok(Value::List(items)),
                (event, at) => {
                    self.path.push(Step::Index(items.len()));
                    items.push(self.node(event, at, depth + 1)?);
                    self.path.pop();
                }
            }
        }
    }

    fn map(&mut self, at: At, depth: usize) -> Result<Value, Fault> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, at) = self.expect(at)?;
            if event == Event::MappingEnd {
                return Ok(Value::Map(entries));
            }
            let key = self.node(event, at, depth + 1)?;
            let key = match key.value {
                Value::Scalar(scalar) => Some(scalar.text),
                _ => None,
            };
            self.path.push(Step::Key(key.clone().unwrap_or_default()));
            let (event, value_at) = self.expect(at)?;
            let value = self.node(event, value_at, depth + 1)?;
            self.entry(key, at, value, &mut entries, &mut seen);
            self.path.pop();
        }
    }

    fn entry(
        &mut self,
        key: Option<String>,
        at: At,
        value: Node,
        entries: &mut Vec<Entry>,
        seen: &mut HashSet<String>,
    ) {
        let Some(key) = key else {
            let message = "a key must be a plain text".to_owned();
            return self.report(Fault::new(at, message, "quote it when it is meant as text"));
        };
        if seen.insert(key.clone()) {
            entries.push(Entry { key, at, value });
        } else {
            let message = format!("`{key}` is there twice");
            self.report(Fault::new(at, message, "keep one of the two"));
        }
    }

    /// Keeps a fault, with the place in the tree that reading has come to.
    fn report(&mut self, mut fault: Fault) {
        fault.path = self.path.iter().fold(String::new(), |path, step| match step {
            Step::Key(key) => join(&path, key),
            Step::Index(index) => format!("{path}[{index}]"),
        });
        self.faults.push(fault);
    }

    /// An alias is a copy; the places in it stay those of the original.
    fn alias(&mut self, target: usize, at: At) -> Result<Node, Fault> {
        let Some(node) = self.anchors.get(&target).cloned() else {
            let message = "this alias stands inside what it refers to".to_owned();
            return Err(Fault::new(at, message, "write the value out"));
        };
        self.count(size(&node), at)?;
        Ok(node)
    }

    fn count(&mut self, nodes: usize, at: At) -> Result<(), Fault> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes <= self.most_nodes {
            return Ok(());
        }
        let message = format!("more than {} values, aliases counted as what they stand for", self.most_nodes);
        Err(Fault::new(at, message, "split the configuration, or use fewer aliases"))
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    let quoted = style != ScalarStyle::Plain;
    if !quoted && matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Value::Null;
    }
    Value::Scalar(Scalar { text: text.to_owned(), written: None })
}

fn size(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size).sum(),
        Value::Map(entries) => entries.iter().map(|entry| 1 + size(&entry.value)).sum(),
        Value::Null | Value::Scalar(_) | Value::Unknown => 0,
    }
}

fn place(span: &Span) -> At {
    let (start, end) = (span.start, span.end);
    let width = if start.line() == end.line() { end.col().saturating_sub(start.col()).max(1) } else { 1 };
    At { line: start.line().max(1), column: start.col() + 1, width, last: end.line().max(start.line()).max(1) }
}
