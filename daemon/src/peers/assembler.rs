// SPDX-License-Identifier: GPL-2.0-only

//! Messages of a fixed size from a stream that may deliver them in any pieces.

use std::io::{self, Read};

/// Collects one message of `N` bytes after the other and never takes a byte beyond the current one.
#[derive(Debug)]
pub struct Assembler<const N: usize> {
    buffer: [u8; N],
    filled: usize,
}

impl<const N: usize> Default for Assembler<N> {
    fn default() -> Self {
        Self {
            buffer: [0; N],
            filled: 0,
        }
    }
}

impl<const N: usize> Assembler<N> {
    /// Reads until a message is complete or nothing more is there (`None`).
    ///
    /// # Errors
    /// `UnexpectedEof` when the stream has ended, or what reading it reports.
    pub fn read_from(&mut self, stream: &mut impl Read) -> io::Result<Option<[u8; N]>> {
        while self.filled < N {
            match stream.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        self.filled = 0;
        Ok(Some(self.buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Delivers its bytes in pieces, "would block" between them.
    struct Pieces<'a>(&'a [u8], usize, bool);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let count = self.1.min(self.0.len()).min(buffer.len());
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn c5_any_pieces_give_the_same_messages_and_then_the_end() {
        let bytes: Vec<u8> = (0..12).collect();
        for piece in 1..=12 {
            let mut stream = Pieces(&bytes, piece, false);
            let mut assembler = Assembler::<4>::default();
            let mut messages = Vec::new();
            let end = loop {
                match assembler.read_from(&mut stream) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => {}
                    Err(error) => break error,
                }
            };
            assert_eq!(
                messages,
                [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]],
                "{piece}"
            );
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
