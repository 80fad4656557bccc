// SPDX-License-Identifier: GPL-2.0-only

//! An outgoing connection up to the peer's answer to our hello.

use super::assembler::Assembler;
use super::socket::{self, Socket};
use crate::events::{Reactor, Source};
use crate::reactor::Readiness;
use mio::net::TcpStream;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::Duration;
use weft_uapi::peer::{Hello, HelloReply};
use zerocopy::IntoBytes;

/// A connection attempt under way.
#[derive(Debug)]
pub struct Dial {
    socket: Socket,
    hello: Hello,
    greeted: bool,
    reply: Assembler<{ size_of::<HelloReply>() }>,
    patience: Duration,
}

impl Dial {
    /// Starts connecting, watched as `source`; `patience` is for [`socket::prepare`].
    ///
    /// # Errors
    /// When the kernel refuses at once, for instance without a route.
    pub fn start(
        reactor: &mut Reactor,
        source: Source,
        address: SocketAddr,
        hello: Hello,
        patience: Duration,
    ) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        let watch = reactor.watch(&stream, source)?;
        Ok(Self {
            socket: Socket { stream, watch },
            hello,
            greeted: false,
            reply: Assembler::default(),
            patience,
        })
    }

    /// The connection, to be used or thrown away.
    pub fn into_socket(self) -> Socket {
        self.socket
    }

    /// Gets as far as it can: the reply once it is there, else `None`.
    ///
    /// # Errors
    /// When the connection failed, ended, or what came is no reply.
    pub fn advance(&mut self, readiness: Readiness) -> io::Result<Option<HelloReply>> {
        if !self.greeted {
            if let Some(error) = self.socket.stream.take_error()? {
                return Err(error);
            }
            if !readiness.writable {
                return Ok(None);
            }
            socket::prepare(&self.socket.stream, self.patience)?;
            // A fresh connection has room for far more than a hello: anything short of all of it is an error.
            let count = self.socket.stream.write(self.hello.as_bytes())?;
            if count != size_of::<Hello>() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.greeted = true;
        }
        let Some(bytes) = self.reply.read_from(&mut self.socket.stream)? else {
            return Ok(None);
        };
        HelloReply::parse(&bytes).map(Some).map_err(|error| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("what answers there is no Weft daemon ({error:?})"),
            )
        })
    }
}
