// SPDX-License-Identifier: GPL-2.0-only

//! Who this node is, what it says in a hello and whom it believes.

use crate::config::{Config, Node};
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use weft_uapi::control::{name_of, padded_name};
use weft_uapi::limits::NAME_MAX;
use weft_uapi::peer::{Channel, Hello, HelloReply, Verdict, HELLO_MAGIC, REPLY_MAGIC};
use weft_uapi::units::NodeId;
use weft_uapi::version::{FEATURES, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

/// This node towards others.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its id.
    pub node: NodeId,
    cluster: u64,
    boot: u64,
}

/// A data or meta channel's place: one session of one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Place {
    /// Name of the resource.
    pub resource: String,
    /// The sender's number of the session.
    pub session: u64,
}

/// A hello whose sender is believed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Who calls.
    pub node: NodeId,
    /// Random id of the caller's boot.
    pub boot: u64,
    /// What the connection is for.
    pub channel: Channel,
    /// Where a data or meta channel belongs; `None` for control.
    pub place: Option<Place>,
}

/// Why a hello is turned away: the answer, and a sentence for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refused {
    /// The answer.
    pub verdict: Verdict,
    /// The sentence.
    pub why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl Identity {
    /// Of `node` in `config`, on this boot.
    ///
    /// # Errors
    /// When the kernel does not tell its boot id.
    pub fn new(config: &Config, node: &Node) -> io::Result<Self> {
        Ok(Self {
            node: node.id,
            cluster: cluster_id(&config.cluster.name),
            boot: boot_id()?,
        })
    }

    /// The hello for a channel to node `to`; `None` when the resource's name is too long for it.
    pub fn hello(&self, to: NodeId, channel: Channel, place: Option<&Place>) -> Option<Hello> {
        let hello = Hello {
            magic: HELLO_MAGIC,
            version: PROTOCOL_VERSION.into(),
            version_min: PROTOCOL_VERSION_MIN.into(),
            channel: (channel.number() as u16).into(),
            reserved: 0.into(),
            features: FEATURES.into(),
            cluster: self.cluster.into(),
            boot: self.boot.into(),
            from: u32::from(self.node.get()).into(),
            to: u32::from(to.get()).into(),
            session: place.map_or(0, |place| place.session).into(),
            resource: place.map_or(Some([0; NAME_MAX + 1]), |place| {
                padded_name(&place.resource)
            })?,
            crc: 0.into(),
            tail: 0.into(),
        };
        Some(hello.sealed())
    }

    /// The answer to a hello; `session` is this side's number of the session, 0 on a control channel.
    pub fn reply(&self, verdict: Verdict, their_features: u64, session: u64) -> HelloReply {
        HelloReply {
            magic: REPLY_MAGIC,
            verdict: (verdict.number() as u16).into(),
            version: PROTOCOL_VERSION.into(),
            version_min: PROTOCOL_VERSION_MIN.into(),
            reserved: 0.into(),
            features: (FEATURES & their_features).into(),
            boot: self.boot.into(),
            session: session.into(),
            crc: 0.into(),
            tail: 0.into(),
        }
        .sealed()
    }

    /// Judges a hello. Version comes first: the other fields may mean something else in another version.
    ///
    /// # Errors
    /// The refusal to answer with.
    pub fn judge(
        &self,
        hello: &Hello,
        is_peer: impl Fn(NodeId) -> bool,
    ) -> Result<Caller, Refused> {
        let refused = |verdict, why| Err(Refused { verdict, why });
        if let Some(why) = version_clash(hello.version.get(), hello.version_min.get()) {
            return refused(Verdict::Version, why);
        }
        if hello.cluster.get() != self.cluster {
            return refused(
                Verdict::Cluster,
                format!(
                    "node {} belongs to a cluster of another name",
                    hello.from.get()
                ),
            );
        }
        let from = NodeId::new(hello.from.get()).filter(|&node| is_peer(node));
        let Some(node) = from else {
            return refused(
                Verdict::Identity,
                format!("node {} is not configured here", hello.from.get()),
            );
        };
        if hello.to.get() != u32::from(self.node.get()) {
            return refused(
                Verdict::Identity,
                format!(
                    "node {node} wanted node {}, but this is node {}",
                    hello.to.get(),
                    self.node
                ),
            );
        }
        if node <= self.node {
            return refused(
                Verdict::Identity,
                format!(
                    "node {node} dialled node {}, but the higher id dials",
                    self.node
                ),
            );
        }
        // The syntax check has let only known channels through.
        let channel = Channel::from_number(hello.channel.get().into()).unwrap_or(Channel::Control);
        let place = match (channel, name_of(&hello.resource)) {
            (Channel::Control, _) => None,
            (_, Some(resource)) if !resource.is_empty() => Some(Place {
                resource: resource.to_owned(),
                session: hello.session.get(),
            }),
            _ => return refused(Verdict::Identity, format!("node {node} named no resource")),
        };
        Ok(Caller {
            node,
            boot: hello.boot.get(),
            channel,
            place,
        })
    }
}

/// A sentence when a side that speaks `min..=max` has no version in common with this one.
fn version_clash(max: u16, min: u16) -> Option<String> {
    let common = max.min(PROTOCOL_VERSION) >= min.max(PROTOCOL_VERSION_MIN);
    (!common).then(|| {
        format!(
            "the peer speaks protocol versions {min} to {max}, this node {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}"
        )
    })
}

/// What a reply means to the dialling side: the reply itself when welcome, else the verdict with a sentence.
///
/// # Errors
/// The refusal.
pub fn judge_reply(reply: &HelloReply) -> Result<(), Refused> {
    let verdict = Verdict::from_number(reply.verdict.get().into()).unwrap_or(Verdict::Identity);
    let why = match verdict {
        Verdict::Welcome => {
            return match version_clash(reply.version.get(), reply.version_min.get()) {
                None => Ok(()),
                Some(why) => Err(Refused {
                    verdict: Verdict::Version,
                    why,
                }),
            }
        }
        Verdict::Version => version_clash(reply.version.get(), reply.version_min.get())
            .unwrap_or_else(|| "the peer found no common protocol version".to_owned()),
        Verdict::Cluster => "the peer belongs to a cluster of another name".to_owned(),
        Verdict::Identity => {
            "the peer does not know this node, or is not the node that is configured at its address"
                .to_owned()
        }
        Verdict::NotReady => "the peer's module offers no link for this resource now".to_owned(),
        Verdict::Duplicate => "the peer has such a channel with this node id already".to_owned(),
    };
    Err(Refused { verdict, why })
}

/// First eight bytes of the SHA-256 of the cluster's name.
fn cluster_id(name: &str) -> u64 {
    let digest: [u8; 32] = Sha256::digest(name.as_bytes()).into();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first)
}

/// The first 64 bits of the kernel's random id of this boot.
fn boot_id() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits: String = text
        .chars()
        .filter(char::is_ascii_hexdigit)
        .take(16)
        .collect();
    u64::from_str_radix(&digits, 16)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
