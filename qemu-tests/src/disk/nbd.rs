// SPDX-License-Identifier: GPL-2.0-only
//! The server side of the network block device protocol, as much of it as QEMU
//! needs: fixed newstyle handshake, one export, simple replies, one request at a
//! time.

use std::io::{self, Read, Write};

use nix::errno::Errno;

const INIT_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

const FIXED_NEWSTYLE_AND_NO_ZEROES: u16 = 3;
/// Flags present, flush, FUA, trim and write-zeroes understood.
const TRANSMISSION_FLAGS: u16 = 0b110_1101;

const OPTION_EXPORT_NAME: u32 = 1;
const OPTION_ABORT: u32 = 2;
const OPTION_INFO: u32 = 6;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const REPLY_UNSUPPORTED: u32 = 0x8000_0001;
const INFO_EXPORT: u16 = 0;

const FLAG_FUA: u16 = 1;
/// Longest option and longest write in bytes; QEMU stays below both.
const OPTION_LEN_MAX: u32 = 64 * 1024;
const WRITE_LEN_MAX: u32 = 64 * 1024 * 1024;

/// What a client asks of the device. Offsets and lengths are in bytes.
#[derive(Debug)]
pub(super) enum Request {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
        fua: bool,
    },
    Zero {
        offset: u64,
        len: u32,
        fua: bool,
    },
    Flush,
}

/// Serves `device` until the client leaves. The device answers a read with the
/// data, anything else with nothing.
///
/// A client that is killed leaves in the middle of whatever it was about to
/// say or hear; a request that has not come whole is not carried out.
pub(super) fn serve<S, D>(mut stream: S, size: u64, device: D) -> io::Result<()>
where
    S: Read + Write,
    D: FnMut(Request) -> Result<Vec<u8>, Errno>,
{
    if !handshake(&mut stream, size)? {
        return Ok(());
    }
    match answer(&mut stream, device) {
        Err(error) if is_farewell(&error) => Ok(()),
        result => result,
    }
}

/// Answers requests until the client says good-bye.
fn answer<S, D>(stream: &mut S, mut device: D) -> io::Result<()>
where
    S: Read + Write,
    D: FnMut(Request) -> Result<Vec<u8>, Errno>,
{
    while let Some((cookie, request)) = receive(stream)? {
        let answer = match request {
            Some(request) => device(request),
            None => Err(Errno::EINVAL),
        };
        let (error, data) = match answer {
            Ok(data) => (0, data),
            Err(errno) => (errno as u32, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + data.len());
        reply.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
        reply.extend_from_slice(&error.to_be_bytes());
        reply.extend_from_slice(&cookie.to_be_bytes());
        reply.extend_from_slice(&data);
        stream.write_all(&reply)?;
    }
    Ok(())
}

/// Tells whether the client wants to go on with the export.
fn handshake(stream: &mut (impl Read + Write), size: u64) -> io::Result<bool> {
    let mut greeting = Vec::new();
    greeting.extend_from_slice(&INIT_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&FIXED_NEWSTYLE_AND_NO_ZEROES.to_be_bytes());
    stream.write_all(&greeting)?;
    let _client_flags = read_u32(stream)?;

    let mut export = Vec::new();
    export.extend_from_slice(&size.to_be_bytes());
    export.extend_from_slice(&TRANSMISSION_FLAGS.to_be_bytes());
    loop {
        expect(read_u64(stream)? == OPTION_MAGIC, "option magic")?;
        let option = read_u32(stream)?;
        let len = read_u32(stream)?;
        expect(len <= OPTION_LEN_MAX, "option length")?;
        io::copy(&mut Read::take(&mut *stream, len.into()), &mut io::sink())?;
        match option {
            OPTION_EXPORT_NAME => {
                stream.write_all(&export)?;
                return Ok(true);
            }
            OPTION_GO | OPTION_INFO => {
                let mut info = INFO_EXPORT.to_be_bytes().to_vec();
                info.extend_from_slice(&export);
                reply_to_option(stream, option, REPLY_INFO, &info)?;
                reply_to_option(stream, option, REPLY_ACK, &[])?;
                if option == OPTION_GO {
                    return Ok(true);
                }
            }
            OPTION_ABORT => {
                reply_to_option(stream, option, REPLY_ACK, &[])?;
                return Ok(false);
            }
            _ => reply_to_option(stream, option, REPLY_UNSUPPORTED, &[])?,
        }
    }
}

fn reply_to_option(to: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut reply = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    reply.extend_from_slice(&option.to_be_bytes());
    reply.extend_from_slice(&kind.to_be_bytes());
    reply.extend_from_slice(&(data.len() as u32).to_be_bytes());
    reply.extend_from_slice(data);
    to.write_all(&reply)
}

/// The next request and its cookie; no request inside if it is an unknown one;
/// nothing at all when the client says good-bye.
fn receive(stream: &mut impl Read) -> io::Result<Option<(u64, Option<Request>)>> {
    expect(read_u32(stream)? == REQUEST_MAGIC, "request magic")?;
    let flags = read_u16(stream)?;
    let kind = read_u16(stream)?;
    let cookie = read_u64(stream)?;
    let offset = read_u64(stream)?;
    let len = read_u32(stream)?;
    let fua = flags & FLAG_FUA != 0;
    let request = match kind {
        0 => Some(Request::Read { offset, len }),
        1 => {
            expect(len <= WRITE_LEN_MAX, "write length")?;
            let mut bytes = vec![0; len as usize];
            stream.read_exact(&mut bytes)?;
            Some(Request::Write { offset, bytes, fua })
        }
        2 => return Ok(None),
        3 => Some(Request::Flush),
        4 | 6 => Some(Request::Zero { offset, len, fua }),
        _ => None,
    };
    Ok(Some((cookie, request)))
}

/// A client that is killed leaves in one of these ways.
fn is_farewell(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn expect(holds: bool, what: &str) -> io::Result<()> {
    let error = || io::Error::new(io::ErrorKind::InvalidData, format!("bad NBD {what}"));
    holds.then_some(()).ok_or_else(error)
}

fn read_u16(from: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    from.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_u64(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}
