// SPDX-License-Identifier: GPL-2.0-only

//! What a tie-breaker has to know after a restart: one small file per volume in the state directory.
//!
//! The module counts on it: an answer means that the file is on disk, and so is its name. What was kept is replaced as a
//! whole or not at all.

use crate::config::is_name;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use weft_uapi::control::{name_of, Memory, MessageHeader, KEPT, KERN_KEEP, KERN_RECALL, RECALLED};
use weft_uapi::crc32c::crc32c;
use weft_uapi::ondisk::Generation;
use weft_uapi::units::{GenerationId, NodeId, NodeSet, Term};

/// Folder within the state directory.
const FOLDER: &str = "tie-breaker";
/// Format of the files.
const VERSION: u32 = 1;

/// The files of one daemon.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// Content of a file.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Note {
    version: u32,
    resource: String,
    volume: u32,
    promised_term: u64,
    generation: u64,
    parent: u64,
    term: u64,
    writer: Option<u8>,
    members: u32,
}

/// A file.
#[derive(Serialize, Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct Sealed {
    note: Note,
    crc32c: u32,
}

impl Store {
    /// The files below a state directory, which need not exist yet.
    pub fn new(state_dir: &Path) -> Self {
        Self {
            folder: state_dir.join(FOLDER),
        }
    }

    /// Does what the module asks for and gives the answer, which is true from now on whatever happens.
    ///
    /// # Errors
    /// With the file that could not be read or written; there is no answer then, and the module will ask again.
    pub fn answer(&self, question: &Memory) -> io::Result<Memory> {
        let resource = name_of(&question.resource).filter(|name| is_name(name));
        let resource = resource.ok_or_else(|| invalid("the name of the resource is malformed"))?;
        let path = self
            .folder
            .join(format!("{resource}.volume-{}", question.volume));
        let done = match question.header.kind {
            KERN_KEEP => self.keep(&path, resource, question).map(|()| Memory {
                header: MessageHeader::of::<Memory>(KEPT),
                ..*question
            }),
            KERN_RECALL => recall(&path, resource, question).map(|kept| Memory {
                header: MessageHeader::of::<Memory>(RECALLED),
                ..kept
            }),
            _ => Err(invalid("the question is of an unknown kind")),
        };
        done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
    }

    fn keep(&self, path: &Path, resource: &str, memory: &Memory) -> io::Result<()> {
        let record = memory.generation.decode();
        let record = record.ok_or_else(|| invalid("the record is malformed"))?;
        let note = Note {
            version: VERSION,
            resource: resource.to_owned(),
            volume: memory.volume,
            promised_term: memory.promised_term,
            generation: record.id.0,
            parent: record.parent.0,
            term: record.term.0,
            writer: record.writer.map(NodeId::get),
            members: record.members.0,
        };
        let sealed = Sealed {
            crc32c: checksum(&note)?,
            note,
        };
        fs::create_dir_all(&self.folder)?;
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(&sealed)?)?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        // The folders above may be new, too; one whose name is on disk already costs nothing.
        let folders = self.folder.ancestors();
        let mut folders = folders.take_while(|folder| !folder.as_os_str().is_empty());
        folders.try_for_each(sync_folder)
    }
}

/// What was kept; zeros when nothing was.
fn recall(path: &Path, resource: &str, question: &Memory) -> io::Result<Memory> {
    let nothing = Memory {
        number: 0,
        promised_term: 0,
        generation: Generation::default().into(),
        ..*question
    };
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
        text => text?,
    };
    let damaged = || {
        invalid("what this tie-breaker promised is not readable any more; to have it forget all of it, remove the file")
    };
    let Sealed { note, crc32c } = serde_json::from_slice(&text).map_err(|_| damaged())?;
    let is_right = crc32c == checksum(&note)?
        && note.version == VERSION
        && note.resource == resource
        && note.volume == question.volume;
    if !is_right {
        return Err(damaged());
    }
    let writer = note
        .writer
        .map(|id| NodeId::new(id.into()).ok_or_else(damaged));
    let generation = Generation {
        id: GenerationId(note.generation),
        parent: GenerationId(note.parent),
        term: Term(note.term),
        writer: writer.transpose()?,
        members: NodeSet(note.members),
        // A tie-breaker is told that by those who have disks.
        left: NodeSet::EMPTY,
    };
    Ok(Memory {
        promised_term: note.promised_term,
        generation: generation.into(),
        ..nothing
    })
}

fn checksum(note: &Note) -> io::Result<u32> {
    Ok(crc32c(&serde_json::to_vec(note)?))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn invalid(sentence: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_uapi::control::padded_name;
    use zerocopy::FromZeros;

    fn of_r0(kind: u32) -> Memory {
        Memory {
            header: MessageHeader::of::<Memory>(kind),
            volume: 3,
            resource: padded_name("r0").unwrap(),
            generation: Generation::default().into(),
            ..Memory::new_zeroed()
        }
    }

    fn record() -> Generation {
        Generation {
            id: GenerationId(u64::MAX),
            parent: GenerationId(7),
            term: Term(5),
            writer: NodeId::new(31),
            members: NodeSet(0b11),
            left: NodeSet::EMPTY,
        }
    }

    fn kept() -> Memory {
        Memory {
            number: 9,
            promised_term: 6,
            generation: record().into(),
            ..of_r0(KERN_KEEP)
        }
    }

    #[test]
    fn what_was_kept_last_is_handed_back_by_the_next_daemon() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(&folder.path().join("state"));
        let nothing = store.answer(&of_r0(KERN_RECALL)).unwrap();
        assert_eq!((nothing.header.kind, nothing.promised_term), (RECALLED, 0));
        assert_eq!(nothing.generation, Generation::default().into());
        let older = Memory {
            promised_term: 1,
            ..kept()
        };
        for memory in [older, kept()] {
            let answer = store.answer(&memory).unwrap();
            assert_eq!((answer.header.kind, answer.number), (KEPT, 9));
        }
        let found = Store::new(&folder.path().join("state"));
        let found = found.answer(&of_r0(KERN_RECALL)).unwrap();
        assert_eq!(found.promised_term, 6);
        assert_eq!(found.generation.decode(), Some(record()));
    }

    #[test]
    fn a_damaged_file_is_no_answer_and_names_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        store.answer(&kept()).unwrap();
        let path = folder.path().join("tie-breaker/r0.volume-3");
        let good = fs::read_to_string(&path).unwrap();
        let bad = [
            good.replace("\"promised_term\":6", "\"promised_term\":5"),
            good[..good.len() - 1].to_owned(),
            String::new(),
        ];
        for text in bad {
            fs::write(&path, text).unwrap();
            let error = store.answer(&of_r0(KERN_RECALL)).unwrap_err().to_string();
            assert!(error.contains("r0.volume-3"), "{error}");
        }
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path());
        for name in ["../r0", "", "a/b", ".hidden"] {
            let memory = Memory {
                resource: padded_name(name).unwrap(),
                ..kept()
            };
            assert!(store.answer(&memory).is_err(), "{name}");
        }
    }
}
