// SPDX-License-Identifier: GPL-2.0-only
//! A disk as its machine sees it, across power cuts.

use super::*;

const MIB: u64 = 1 << 20;

struct Bench {
    disk: Disk,
    _folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::new(folder.path(), "alpha", "data", MIB, 512).unwrap();
    Bench {
        disk,
        _folder: folder,
    }
}

impl Bench {
    fn write(&self, offset: u64, bytes: &[u8], fua: bool) {
        let bytes = bytes.to_vec();
        self.ask(Request::Write { offset, bytes, fua }).unwrap();
    }

    fn ask(&self, request: Request) -> Result<Vec<u8>, Errno> {
        self.disk.shared.handle(request)
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.disk.read(offset, len).unwrap()
    }
}

#[test]
fn unflushed_sectors_are_read_back_but_lost_in_a_power_cut() {
    let bench = bench();
    bench.write(1024, &[7; 2048], false);
    assert_eq!(bench.read(1000, 100)[..24], [0; 24]);
    assert_eq!(bench.read(1000, 100)[24..], [7; 76]);
    bench.disk.power_cut(Survivors::Nothing).unwrap();
    assert_eq!(bench.read(1024, 2048), [0; 2048]);
}

#[test]
fn flushed_sectors_survive_a_power_cut() {
    let bench = bench();
    bench.write(3584, &[1; 1024], false);
    bench.ask(Request::Flush).unwrap();
    bench.write(4096, &[2; 512], false);
    bench.disk.power_cut(Survivors::Nothing).unwrap();
    assert_eq!(bench.read(3584, 1024), [1; 1024]);
}

#[test]
fn a_fua_write_survives_a_power_cut_and_others_do_not() {
    let bench = bench();
    bench.write(0, &[1; 4096], false);
    bench.write(8192, &[2; 4096], true);
    bench.disk.power_cut(Survivors::Nothing).unwrap();
    assert_eq!(bench.read(0, 4096), [0; 4096]);
    assert_eq!(bench.read(8192, 4096), [2; 4096]);
}

#[test]
fn zeroed_sectors_read_as_zeroes_before_and_after_a_flush() {
    let bench = bench();
    bench.write(0, &[9; 16384], true);
    let (offset, len) = (512, 12288);
    bench
        .ask(Request::Zero {
            offset,
            len,
            fua: false,
        })
        .unwrap();
    for _ in 0..2 {
        assert_eq!(bench.read(0, 512), [9; 512]);
        assert_eq!(bench.read(512, 12288), [0; 12288]);
        assert_eq!(bench.read(12800, 3584), [9; 3584]);
        bench.ask(Request::Flush).unwrap();
    }
}

#[test]
fn a_power_cut_can_spare_some_sectors_and_repeats_itself() {
    let outcome = || {
        let bench = bench();
        bench.write(0, &[5; 65536], false);
        bench.disk.power_cut(Survivors::Some(42)).unwrap();
        bench.read(0, 65536)
    };
    let content = outcome();
    assert!(content.contains(&0) && content.contains(&5));
    assert_eq!(content, outcome());
}

#[test]
fn a_fault_hits_its_operation_in_its_range_until_repaired() {
    let bench = bench();
    let read = |offset| bench.ask(Request::Read { offset, len: 512 });
    bench.disk.fail(Operation::Read, 4096..8192);
    assert_eq!(read(4096), Err(Errno::EIO));
    assert!(read(3584).is_ok() && read(8192).is_ok());
    bench.write(4096, &[1; 512], false);
    assert_eq!(bench.disk.counters().errors, 1);
    bench.disk.repair();
    assert!(read(4096).is_ok());
}

#[test]
fn a_request_past_the_end_is_refused() {
    let bench = bench();
    let at_end = Request::Read {
        offset: MIB - 512,
        len: 1024,
    };
    assert_eq!(bench.ask(at_end), Err(Errno::EINVAL));
    let wrapping = Request::Read {
        offset: u64::MAX,
        len: 512,
    };
    assert_eq!(bench.ask(wrapping), Err(Errno::EINVAL));
}

/// What a client says, as far as it gets.
struct Client(io::Cursor<Vec<u8>>);

impl io::Read for Client {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to)
    }
}

impl io::Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_client_killed_in_the_middle_of_a_write_has_written_nothing() {
    let mut said = 3u32.to_be_bytes().to_vec();
    said.extend(b"IHAVEOPT");
    said.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    let begin = said.len();
    // A write of four bytes at 0.
    said.extend(0x2560_9513u32.to_be_bytes());
    said.extend([0, 0, 0, 1]);
    said.extend([0; 16]);
    said.extend([0, 0, 0, 4, 7, 7, 7, 7]);
    for end in begin..=said.len() {
        let mut writes = 0;
        let client = Client(io::Cursor::new(said[..end].to_vec()));
        nbd::serve(client, 4096, |request| {
            writes += usize::from(matches!(request, Request::Write { .. }));
            Ok(Vec::new())
        })
        .unwrap();
        assert_eq!(writes, usize::from(end == said.len()), "after {end} bytes");
    }
}

#[test]
fn a_rolled_back_disk_has_its_old_content() {
    let bench = bench();
    bench.write(0, b"old".repeat(512).as_slice(), true);
    let snapshot = bench.disk.snapshot().unwrap();
    bench.write(0, &[1; 1536], true);
    bench.disk.roll_back(&snapshot).unwrap();
    assert_eq!(bench.read(0, 3), b"old");
}

#[test]
fn the_first_difference_of_two_disks_is_found() {
    let (one, other) = (bench(), bench());
    assert_eq!(
        one.disk.first_difference(&other.disk, 0..MIB).unwrap(),
        None
    );
    other.write(MIB - 512, &[1; 512], false);
    let found = one.disk.first_difference(&other.disk, 0..MIB).unwrap();
    assert_eq!(found, Some(MIB - 512));
}
