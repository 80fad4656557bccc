// SPDX-License-Identifier: GPL-2.0-only

//! Attribute policies: type and length of what each command takes; everything else is refused by the core.

use crate::sys::bindings;
use kernel::prelude::*;
use weft_uapi::netlink::{Attribute, AttributeKind, CommandSpec, ATTRIBUTE_MAX, COMMANDS};

/// Entries of one policy: one per attribute number, 0 included.
const ENTRIES: usize = ATTRIBUTE_MAX as usize + 1;

/// One policy per row of the command table.
pub(super) struct Policies(KVec<bindings::nla_policy>);

impl Policies {
    /// Builds them from the table.
    pub(super) fn new() -> Result<Self> {
        let mut entries = KVec::with_capacity(COMMANDS.len() * ENTRIES, GFP_KERNEL)?;
        for spec in COMMANDS {
            for number in 0..=ATTRIBUTE_MAX {
                entries.push(entry(spec, number), GFP_KERNEL)?;
            }
        }
        Ok(Self(entries))
    }

    /// The policy of row `index` of the table.
    pub(super) fn of(&self, index: usize) -> &[bindings::nla_policy] {
        self.0.chunks_exact(ENTRIES).nth(index).unwrap_or(&[])
    }
}

fn entry(spec: &CommandSpec, number: u32) -> bindings::nla_policy {
    let takes = |attribute: &Attribute| {
        spec.arguments
            .iter()
            .any(|argument| argument.attribute == *attribute)
    };
    match Attribute::from_number(number)
        .filter(takes)
        .map(Attribute::kind)
    {
        Some(AttributeKind::U32(_) | AttributeKind::Choice(_) | AttributeKind::Nodes) => {
            plain(bindings::NLA_U32, 0)
        }
        Some(AttributeKind::U64) => plain(bindings::NLA_U64, 0),
        Some(AttributeKind::Text(bytes_max)) => plain(bindings::NLA_NUL_STRING, bytes_max as u16),
        Some(AttributeKind::Flag) => plain(bindings::NLA_FLAG, 0),
        Some(AttributeKind::Binary) | None => {
            const MESSAGE: &CStr =
                c"This command does not take that attribute; see weftsetup VERB --help";
            let mut refused = plain(bindings::NLA_REJECT, 0);
            // SAFETY: This member of the union is the one that belongs to NLA_REJECT.
            unsafe { *refused.__bindgen_anon_1.reject_message.as_mut() = MESSAGE.as_char_ptr() };
            refused
        }
    }
}

fn plain(kind: u32, len: u16) -> bindings::nla_policy {
    bindings::nla_policy {
        type_: kind as u8,
        len,
        ..Default::default()
    }
}
