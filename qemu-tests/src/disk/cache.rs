// SPDX-License-Identifier: GPL-2.0-only
//! The volatile write cache of a disk: what was written but not flushed.

use std::{collections::BTreeMap, io};

use crate::random::Random;

/// What a disk writes or loses as a whole.
pub(super) const SECTOR_LEN: u64 = 512;
const BLOCK_LEN: u64 = 4096;
const SECTORS_PER_BLOCK: u64 = BLOCK_LEN / SECTOR_LEN;

/// Where the content of the cache goes when it becomes durable.
pub(super) trait Media {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes a range read as zeroes and frees its space.
    fn zero_at(&self, offset: u64, len: u64) -> io::Result<()>;
}

/// One block of which some sectors are in the cache.
struct Block {
    /// `None`: every cached sector is zeroes.
    data: Option<Box<[u8; BLOCK_LEN as usize]>>,
    /// Bit n: sector n is in the cache.
    valid: u8,
}

/// Sectors that a power cut would lose. All offsets and lengths given to it are
/// multiples of [`SECTOR_LEN`].
#[derive(Default)]
pub(super) struct WriteCache {
    blocks: BTreeMap<u64, Block>,
}

/// A part of a range that lies within one block.
struct Piece {
    block: u64,
    /// Offset in the block.
    start: usize,
    len: usize,
    /// Offset in the range.
    at: usize,
}

impl Piece {
    fn sectors(&self) -> u8 {
        let first = self.start as u64 / SECTOR_LEN;
        let count = self.len as u64 / SECTOR_LEN;
        // At most 8 sectors, so both shifts stay below 16 bits.
        (((1u16 << count) - 1) << first) as u8
    }
}

fn pieces(offset: u64, len: u64) -> impl Iterator<Item = Piece> {
    let end = offset + len;
    let mut next = offset;
    std::iter::from_fn(move || {
        let block = next / BLOCK_LEN;
        let stop = end.min((block + 1) * BLOCK_LEN);
        let piece = Piece {
            block,
            start: (next % BLOCK_LEN) as usize,
            len: (stop - next.min(stop)) as usize,
            at: (next - offset) as usize,
        };
        next = stop;
        (piece.len > 0).then_some(piece)
    })
}

impl WriteCache {
    /// Bytes of memory that the cached data takes.
    pub(super) fn size(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_LEN
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for piece in pieces(offset, bytes.len() as u64) {
            let block = self.block(piece.block);
            let data = block.data.get_or_insert_with(zeroes);
            data[piece.start..piece.start + piece.len]
                .copy_from_slice(&bytes[piece.at..piece.at + piece.len]);
            block.valid |= piece.sectors();
        }
    }

    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        for piece in pieces(offset, len) {
            let block = self.block(piece.block);
            block.valid |= piece.sectors();
            if piece.len as u64 == BLOCK_LEN {
                block.data = None;
            } else if let Some(data) = &mut block.data {
                data[piece.start..piece.start + piece.len].fill(0);
            }
        }
    }

    /// Lays what is cached over `bytes` that the media hold at `offset`.
    pub(super) fn overlay(&self, offset: u64, bytes: &mut [u8]) {
        for piece in pieces(offset, bytes.len() as u64) {
            let Some(block) = self.blocks.get(&piece.block) else {
                continue;
            };
            let target = &mut bytes[piece.at..piece.at + piece.len];
            let first = piece.start as u64 / SECTOR_LEN;
            for (sector, target) in (first..).zip(target.chunks_mut(SECTOR_LEN as usize)) {
                if block.valid & (1 << sector) != 0 {
                    target.copy_from_slice(block.sector(sector));
                }
            }
        }
    }

    /// Makes the blocks that touch a range durable.
    pub(super) fn commit(&mut self, offset: u64, len: u64, media: &impl Media) -> io::Result<()> {
        for piece in pieces(offset, len) {
            if let Some(block) = self.blocks.remove(&piece.block) {
                block.commit(piece.block, block.valid, media)?;
            }
        }
        Ok(())
    }

    /// Makes everything durable.
    pub(super) fn commit_all(&mut self, media: &impl Media) -> io::Result<()> {
        while let Some((index, block)) = self.blocks.pop_first() {
            block.commit(index, block.valid, media)?;
        }
        Ok(())
    }

    /// Makes a random half of the sectors durable and loses the others.
    pub(super) fn commit_some(&mut self, seed: u64, media: &impl Media) -> io::Result<()> {
        let mut random = Random::new(seed);
        while let Some((index, block)) = self.blocks.pop_first() {
            let chosen = random.next().to_le_bytes()[0];
            block.commit(index, block.valid & chosen, media)?;
        }
        Ok(())
    }

    /// Loses everything.
    pub(super) fn lose_all(&mut self) {
        self.blocks.clear();
    }

    fn block(&mut self, index: u64) -> &mut Block {
        self.blocks.entry(index).or_insert(Block {
            data: None,
            valid: 0,
        })
    }
}

impl Block {
    fn sector(&self, sector: u64) -> &[u8] {
        const ZEROES: [u8; SECTOR_LEN as usize] = [0; SECTOR_LEN as usize];
        let start = (sector * SECTOR_LEN) as usize;
        self.data
            .as_ref()
            .map_or(&ZEROES, |data| &data[start..start + SECTOR_LEN as usize])
    }

    fn commit(&self, index: u64, sectors: u8, media: &impl Media) -> io::Result<()> {
        let base = index * BLOCK_LEN;
        match &self.data {
            Some(data) if sectors == u8::MAX => return media.write_at(base, &data[..]),
            None if sectors == u8::MAX => return media.zero_at(base, BLOCK_LEN),
            _ => {}
        }
        (0..SECTORS_PER_BLOCK)
            .filter(|sector| sectors & (1 << sector) != 0)
            .try_for_each(|sector| media.write_at(base + sector * SECTOR_LEN, self.sector(sector)))
    }
}

fn zeroes() -> Box<[u8; BLOCK_LEN as usize]> {
    Box::new([0; BLOCK_LEN as usize])
}
