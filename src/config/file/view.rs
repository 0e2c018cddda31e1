//! A reader's place in a checked tree: the value, or its absence, with its path and position.

use super::scalar::Wrong;
use crate::yaml::{At, Entry, Node, Scalar, Value, join};

/// A value that may be absent.
#[derive(Debug, Clone)]
pub(super) struct View<'a> {
    node: Option<&'a Node>,
    pub(super) at: At,
    pub(super) path: String,
}

impl<'a> View<'a> {
    pub(super) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), at: node.at, path: String::new() }
    }

    /// The value under `name`; absent ones are placed where their mapping begins.
    pub(super) fn key(&self, name: &str) -> Self {
        let node = self.pairs().iter().find(|entry| entry.key == name).map(|entry| &entry.value);
        Self { node, at: node.map_or(self.at, |node| node.at), path: join(&self.path, name) }
    }

    /// The values of a list.
    pub(super) fn items(&self) -> impl Iterator<Item = Self> {
        let items: &'a [Node] = match self.node {
            Some(Node { value: Value::List(items), .. }) => items,
            _ => &[],
        };
        let path = self.path.clone();
        items.iter().enumerate().map(move |(index, node)| Self {
            node: Some(node),
            at: node.at,
            path: format!("{path}[{index}]"),
        })
    }

    /// The pairs of a mapping with free keys: key, its place, value.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, At, Self)> {
        let path = self.path.clone();
        self.pairs().iter().map(move |entry| {
            let view = Self { node: Some(&entry.value), at: entry.value.at, path: join(&path, &entry.key) };
            (entry.key.as_str(), entry.at, view)
        })
    }

    /// Whether something stands there.
    pub(super) fn is_set(&self) -> bool {
        self.node.is_some()
    }

    /// Whether something stands there that cannot be known now.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.node, Some(Node { value: Value::Unknown, .. }))
    }

    pub(super) fn scalar(&self) -> Option<&'a Scalar> {
        match self.node {
            Some(Node { value: Value::Scalar(scalar), .. }) => Some(scalar),
            _ => None,
        }
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.scalar().map(|scalar| scalar.text.as_str())
    }

    /// The single value as `parse` reads it; what is wrong was already reported.
    pub(super) fn read<T>(&self, parse: impl FnOnce(&'a str) -> Result<T, Wrong>) -> Option<T> {
        parse(self.text()?).ok()
    }

    fn pairs(&self) -> &'a [Entry] {
        match self.node {
            Some(Node { value: Value::Map(entries), .. }) => entries,
            _ => &[],
        }
    }
}
