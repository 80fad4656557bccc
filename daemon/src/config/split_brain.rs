// SPDX-License-Identifier: GPL-2.0-only

//! Whose data are given up after a split brain.

use super::check::{fault, Checked};
use super::file::Resource;
use toml::Spanned;
use weft_uapi::split_brain::{Policies, SplitBrain0, SplitBrain1};
use weft_uapi::units::NodeSet;

/// The policies.
pub(super) fn policies(raw: &Resource, voters: NodeSet) -> Checked<Policies> {
    let none = chosen(
        raw.split_brain_0.as_ref(),
        SplitBrain0::from_name,
        "split-brain-0 is \"disconnect\", \"discard-zero-changes\" or \"discard-least-changes\"",
    )?;
    let one = chosen(
        raw.split_brain_1.as_ref(),
        SplitBrain1::from_name,
        "split-brain-1 is \"disconnect\", \"consensus\" or \"discard-secondary\"",
    )?;
    if let Some(value) = &raw.split_brain_2 {
        if value.get_ref() != "disconnect" {
            return Err(fault(
                value,
                "split-brain-2 is \"disconnect\": the data of a primary are never replaced under its application",
            ));
        }
    }
    let policies = Policies { none, one };
    let wanted = match (&raw.split_brain_0, &raw.split_brain_1) {
        (Some(value), _) if none != SplitBrain0::Disconnect => value,
        (_, Some(value)) if one != SplitBrain1::Disconnect => value,
        _ => return Ok(policies),
    };
    if !voters.is_empty() {
        return Err(fault(
            wanted,
            "with quorum only force makes a fork, which is left to a person: leave the policy out, or say quorum = \"off\"",
        ));
    }
    if raw.volumes.len() > 1 {
        return Err(fault(
            wanted,
            "volumes are decided one by one, and what survives could be of different nodes: leave the policy out",
        ));
    }
    if policies
        == (Policies {
            none: SplitBrain0::Disconnect,
            one: SplitBrain1::Consensus,
        })
    {
        return Err(fault(
            wanted,
            "consensus is with what split-brain-0 says: say \"discard-zero-changes\" or \"discard-least-changes\" there",
        ));
    }
    Ok(policies)
}

fn chosen<T: Default>(
    value: Option<&Spanned<String>>,
    of: fn(&str) -> Option<T>,
    otherwise: &str,
) -> Checked<T> {
    value.map_or(Ok(T::default()), |value| {
        of(value.get_ref()).ok_or_else(|| fault(value, otherwise))
    })
}
