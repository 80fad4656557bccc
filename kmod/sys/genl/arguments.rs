// SPDX-License-Identifier: GPL-2.0-only

//! Attributes of a request.

use crate::sys::bindings;
use core::{marker::PhantomData, slice, str};
use kernel::ffi::c_int;
use weft_uapi::netlink::{Attribute, AttributeKind, CommandSpec, ATTRIBUTE_MAX};
use weft_uapi::refusal::Refusal;

/// The attributes of one request, validated against the command's policy.
///
/// # Invariants
/// `table` has `ATTRIBUTE_MAX + 1` entries, each null or a valid attribute of the type and length that the policy
/// of its number asks for, valid for `'a`.
pub(crate) struct Arguments<'a> {
    table: *mut *mut bindings::nlattr,
    _request: PhantomData<&'a bindings::nlattr>,
}

const _: () = {
    let mut rest = Attribute::ALL;
    while let [attribute, others @ ..] = rest {
        assert!(attribute.number() <= ATTRIBUTE_MAX);
        rest = others;
    }
};

impl<'a> Arguments<'a> {
    /// The attributes of a request.
    ///
    /// # Safety
    /// `info` belongs to a request that the core has parsed with a policy of this family.
    pub(super) unsafe fn from_raw(info: &'a bindings::genl_info) -> Self {
        // INVARIANT: By the caller's promise; the core makes a table of `maxattr + 1` entries.
        Self {
            table: info.attrs,
            _request: PhantomData,
        }
    }

    /// Checks what the policy cannot express: mandatory arguments are there, numbers are in their range, texts are
    /// UTF-8. Names the offending attribute.
    pub(crate) fn check(&self, spec: &CommandSpec) -> Result<(), (Refusal, Attribute)> {
        for argument in spec.arguments {
            let attribute = argument.attribute;
            if argument.mandatory && self.payload(attribute).is_none() {
                return Err((Refusal::MissingArgument, attribute));
            }
            if self
                .payload(attribute)
                .is_some_and(|bytes| !is_valid(bytes, attribute.kind()))
            {
                return Err((Refusal::BadArgument, attribute));
            }
        }
        Ok(())
    }

    /// A number, if it is there.
    pub(crate) fn number(&self, attribute: Attribute) -> Option<u32> {
        number_of(self.payload(attribute)?)
    }

    /// A number of 64 bits, if it is there.
    pub(crate) fn long_number(&self, attribute: Attribute) -> Option<u64> {
        Some(u64::from_ne_bytes(
            self.payload(attribute)?.try_into().ok()?,
        ))
    }

    /// A text without its final NUL, if it is there.
    pub(crate) fn text(&self, attribute: Attribute) -> Option<&'a str> {
        text_of(self.payload(attribute)?)
    }

    /// Whether a flag is there.
    pub(crate) fn flag(&self, attribute: Attribute) -> bool {
        self.payload(attribute).is_some()
    }

    fn payload(&self, attribute: Attribute) -> Option<&'a [u8]> {
        // SAFETY: The number of an attribute is at most `ATTRIBUTE_MAX`, so within the table, by the type's
        // invariant.
        let raw = unsafe { *self.table.add(attribute as usize) };
        if raw.is_null() {
            return None;
        }
        // SAFETY: By the type's invariant, the attribute is valid for `'a`, and so are its data and length.
        unsafe {
            let length: c_int = bindings::weft_nla_len(raw);
            Some(slice::from_raw_parts(
                bindings::weft_nla_data(raw).cast(),
                usize::try_from(length).ok()?,
            ))
        }
    }
}

fn number_of(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    let end = bytes
        .iter()
        .position(|&byte| byte == 0)
        .unwrap_or(bytes.len());
    str::from_utf8(bytes.get(..end)?).ok()
}

fn is_valid(bytes: &[u8], kind: AttributeKind) -> bool {
    match kind {
        AttributeKind::U32(max) => number_of(bytes).is_some_and(|number| number <= max),
        AttributeKind::Choice(choices) => {
            let number = number_of(bytes);
            choices.iter().any(|(choice, _)| number == Some(*choice))
        }
        AttributeKind::Nodes => number_of(bytes).is_some(),
        AttributeKind::U64 => bytes.len() == size_of::<u64>(),
        AttributeKind::Text(max) => {
            text_of(bytes).is_some_and(|text| !text.is_empty() && text.len() <= max)
        }
        AttributeKind::Flag => true,
        AttributeKind::Binary => false,
    }
}
