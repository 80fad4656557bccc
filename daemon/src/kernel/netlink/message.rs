// SPDX-License-Identifier: GPL-2.0-only

//! A generic netlink message: a command and flat attributes.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable,
    NlasIterator,
};
use weft_uapi::netlink::Attribute;

/// Bytes of the generic netlink header: command, version and two reserved ones.
const HEADER_BYTES: usize = 4;

/// One message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Number of the family.
    pub family: u16,
    /// Number of the command.
    pub command: u8,
    /// Version of the family.
    pub version: u8,
    /// Number and value of each attribute.
    pub attributes: Vec<(u16, Vec<u8>)>,
}

impl Message {
    /// The value of an attribute of the family `weft`.
    pub fn bytes(&self, attribute: Attribute) -> Option<&[u8]> {
        self.raw(attribute.number() as u16)
    }

    /// The value of an attribute by number.
    pub fn raw(&self, number: u16) -> Option<&[u8]> {
        find(&self.attributes, number)
    }

    /// An attribute of 32 bits.
    pub fn u32(&self, attribute: Attribute) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes(attribute)?.try_into().ok()?))
    }

    /// An attribute of 64 bits.
    pub fn u64(&self, attribute: Attribute) -> Option<u64> {
        Some(u64::from_ne_bytes(self.bytes(attribute)?.try_into().ok()?))
    }

    /// A string, without its final NUL.
    pub fn text(&self, attribute: Attribute) -> Option<String> {
        self.bytes(attribute).map(text)
    }

    fn nlas(&self) -> Vec<DefaultNla> {
        let attributes = self.attributes.iter();
        attributes
            .map(|(kind, value)| DefaultNla::new(*kind, value.clone()))
            .collect()
    }
}

/// A string as netlink carries it, up to its NUL.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// Attributes in a row, as they stand in messages and in nested attributes. What is malformed ends the list.
pub(super) fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let all = NlasIterator::new(bytes).map_while(Result::ok);
    all.map(|nla| (nla.kind(), nla.value().to_vec())).collect()
}

/// The value of one attribute of a list.
pub(super) fn find(attributes: &[(u16, Vec<u8>)], number: u16) -> Option<&[u8]> {
    let mut all = attributes.iter();
    all.find(|(kind, _)| *kind == number)
        .map(|(_, value)| value.as_slice())
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.family
    }

    fn buffer_len(&self) -> usize {
        HEADER_BYTES + self.nlas().as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (header, body) = buffer.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&[self.command, self.version, 0, 0]);
        self.nlas().as_slice().emit(body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let [command, version, _, _, body @ ..] = payload else {
            return Err("shorter than a generic netlink header".into());
        };
        Ok(Self {
            family: header.message_type,
            command: *command,
            version: *version,
            attributes: attributes(body),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::{NetlinkMessage, NetlinkPayload};

    #[test]
    fn a_message_survives_its_way_through_bytes() {
        let message = Message {
            family: 40,
            command: 5,
            version: 1,
            attributes: vec![
                (1, b"r0\0".to_vec()),
                (2, 7u32.to_ne_bytes().to_vec()),
                (9, vec![]),
            ],
        };
        let payload = NetlinkPayload::InnerMessage(message.clone());
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), payload);
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        let packet = NetlinkMessage::<Message>::deserialize(&bytes).unwrap();
        let NetlinkPayload::InnerMessage(read) = packet.payload else {
            panic!("{packet:?}");
        };
        assert_eq!(read, message);
        assert_eq!(read.text(Attribute::Resource).as_deref(), Some("r0"));
        assert_eq!(read.u32(Attribute::Volume), Some(7));
        assert_eq!(read.u64(Attribute::Volume), None);
        assert_eq!(read.bytes(Attribute::Force), Some(&[][..]));
    }
}
