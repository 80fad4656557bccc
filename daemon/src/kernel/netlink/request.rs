// SPDX-License-Identifier: GPL-2.0-only

//! A request to the module.

use super::message::Message;
use weft_uapi::netlink::{Attribute, Command};
use weft_uapi::version::NETLINK_VERSION;

/// Value of an argument.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Value {
    /// 32 bits.
    U32(u32),
    /// 64 bits.
    U64(u64),
    /// A string.
    Text(String),
    /// Present.
    Flag,
}

/// A command with its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// What is wanted.
    pub command: Command,
    /// With what, in the order of the command table.
    pub arguments: Vec<(Attribute, Value)>,
}

impl Request {
    /// A request without arguments.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            arguments: Vec::new(),
        }
    }

    /// A request about a resource.
    pub fn about(command: Command, resource: &str) -> Self {
        Self::new(command).text(Attribute::Resource, resource)
    }

    /// Adds an argument.
    #[must_use]
    pub fn with(mut self, attribute: Attribute, value: Value) -> Self {
        self.arguments.push((attribute, value));
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn number(self, attribute: Attribute, value: u32) -> Self {
        self.with(attribute, Value::U32(value))
    }

    /// Adds a string.
    #[must_use]
    pub fn text(self, attribute: Attribute, value: &str) -> Self {
        self.with(attribute, Value::Text(value.to_owned()))
    }

    /// Adds a flag if it is set.
    #[must_use]
    pub fn flag(self, attribute: Attribute, set: bool) -> Self {
        if set {
            self.with(attribute, Value::Flag)
        } else {
            self
        }
    }

    pub(super) fn message(&self, family: u16) -> Message {
        let bytes = |value: &Value| match value {
            Value::U32(number) => number.to_ne_bytes().to_vec(),
            Value::U64(number) => number.to_ne_bytes().to_vec(),
            Value::Text(text) => [text.as_bytes(), &[0]].concat(),
            Value::Flag => Vec::new(),
        };
        let arguments = self.arguments.iter();
        Message {
            family,
            command: self.command.number() as u8,
            version: NETLINK_VERSION,
            attributes: arguments
                .map(|(attribute, value)| (attribute.number() as u16, bytes(value)))
                .collect(),
        }
    }
}
