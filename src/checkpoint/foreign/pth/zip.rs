//! The directory of a zip archive, as far as `torch.save` makes use of the format: entries that are neither compressed nor encrypted, read
//! where they lie in the file (APPNOTE.TXT 6.3, with its 64-bit fields).
//!
//! The archive begins where the file does. Nothing is guessed: a reader that looks for another beginning finds one by chance in some files.

use std::collections::BTreeMap;

const LOCAL: &[u8] = b"PK\x03\x04";
const ENTRY: &[u8] = b"PK\x01\x02";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
/// The end's own bytes, and the longest comment after them.
const END_LENGTH: usize = 22;
const MAX_COMMENT: usize = 0xffff;
/// What stands in a 32-bit field whose value is in a 64-bit one.
const ELSEWHERE: u64 = 0xffff_ffff;

/// What the directory says of an entry.
struct Entry {
    method: u16,
    flags: u16,
    size: u64,
    header: u64,
}

/// An archive's entries by name.
pub struct Archive<'a> {
    bytes: &'a [u8],
    entries: BTreeMap<&'a [u8], Entry>,
}

pub fn is_archive(bytes: &[u8]) -> bool {
    bytes.starts_with(LOCAL)
}

impl<'a> Archive<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, String> {
        Self::directory(bytes).ok_or_else(|| "broken zip archive (is the file cut off?)".into())
    }

    fn directory(bytes: &'a [u8]) -> Option<Self> {
        let end = end(bytes)?;
        let (mut count, mut place) = (u64::from(u16_at(bytes, end + 10)?), u64::from(u32_at(bytes, end + 16)?));
        if let Some(locator) = end.checked_sub(20).filter(|&place| bytes[place..].starts_with(LOCATOR_64)) {
            let end = usize::try_from(u64_at(bytes, locator + 8)?).ok()?;
            (count, place) = (u64_at(bytes, end.checked_add(32)?)?, u64_at(bytes, end.checked_add(48)?)?);
            if !bytes.get(end..)?.starts_with(END_64) {
                return None;
            }
        }
        let mut place = usize::try_from(place).ok()?;
        let mut entries = BTreeMap::new();
        // Each takes bytes of the file, which is what bounds their number.
        for _ in 0..count {
            if !bytes.get(place..)?.starts_with(ENTRY) {
                return None;
            }
            let [name, extra, comment] = [28, 30, 32].map(|at| u16_at(bytes, place + at).map(usize::from));
            let (name, extra, comment) = (name?, extra?, comment?);
            let fields = place + 46;
            let text = bytes.get(fields..fields + name)?;
            let mut wide = Wide { extra: bytes.get(fields + name..fields + name + extra)? }.fields();
            let mut number = |at: usize| match u64::from(u32_at(bytes, place + at)?) {
                ELSEWHERE => wide.next(),
                number => Some(number),
            };
            // In the order in which the 64-bit ones are stored.
            let (size, stored, header) = (number(24)?, number(20)?, number(42)?);
            let method = u16_at(bytes, place + 10)?;
            if method == 0 && stored != size {
                return None;
            }
            entries.insert(text, Entry { method, flags: u16_at(bytes, place + 8)?, size, header });
            place = fields + name + extra + comment;
        }
        Some(Self { bytes, entries })
    }

    pub fn names(&self) -> impl Iterator<Item = &'a [u8]> {
        self.entries.keys().copied()
    }

    /// The bytes of an entry; none where the archive has no such entry.
    pub fn entry(&self, name: &[u8]) -> Result<Option<&'a [u8]>, String> {
        let Some(entry) = self.entries.get(name) else { return Ok(None) };
        let name = String::from_utf8_lossy(name);
        if entry.method != 0 || entry.flags & 1 != 0 {
            return Err(format!("its entry {name} is compressed or encrypted; torch.save doesn't do that"));
        }
        let data = self.data(entry);
        data.map(Some).ok_or_else(|| format!("its entry {name} reaches beyond the end of the file"))
    }

    fn data(&self, entry: &Entry) -> Option<&'a [u8]> {
        let header = usize::try_from(entry.header).ok()?;
        if !self.bytes.get(header..)?.starts_with(LOCAL) {
            return None;
        }
        let (name, extra) = (u16_at(self.bytes, header.checked_add(26)?)?, u16_at(self.bytes, header.checked_add(28)?)?);
        let start = header.checked_add(30 + usize::from(name) + usize::from(extra))?;
        self.bytes.get(start..start.checked_add(usize::try_from(entry.size).ok()?)?)
    }
}

/// Where the archive's end begins: the last one whose comment fits into the file.
fn end(bytes: &[u8]) -> Option<usize> {
    let last = bytes.len().checked_sub(END_LENGTH)?;
    let places = (last.saturating_sub(MAX_COMMENT)..=last).rev();
    let mut fitting = places
        .filter(|&place| bytes[place..].starts_with(END) && u16_at(bytes, place + 20).is_some_and(|comment| usize::from(comment) <= last - place));
    fitting.next()
}

/// An entry's extra fields.
struct Wide<'a> {
    extra: &'a [u8],
}

impl<'a> Wide<'a> {
    /// The numbers of the 64-bit field, if there is one.
    fn fields(self) -> impl Iterator<Item = u64> + 'a {
        let mut rest = self.extra;
        let mut found: &[u8] = &[];
        while let (Some(kind), Some(length)) = (u16_at(rest, 0), u16_at(rest, 2)) {
            let Some(field) = rest.get(4..4 + usize::from(length)) else { break };
            if kind == 1 {
                found = field;
                break;
            }
            rest = &rest[4 + field.len()..];
        }
        found.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes))
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_le_bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An archive of entries as they are, each beginning at a multiple of 64 as torch has it; `wide`: with 64-bit fields all over.
    pub fn archive(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
        let (mut file, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in entries {
            let (header, size) = (file.len() as u64, data.len() as u64);
            let padding = (64 - (header as usize + 30 + name.len() + 4) % 64) % 64;
            let common = |size: u32| [&[0; 12][..], &0u32.to_le_bytes(), &size.to_le_bytes(), &size.to_le_bytes()].concat();
            file.extend([LOCAL, &common(size as u32)[2..], &(name.len() as u16).to_le_bytes(), &((padding + 4) as u16).to_le_bytes()].concat());
            file.extend([name.as_bytes(), b"FB", &(padding as u16).to_le_bytes(), &vec![b'Z'; padding], data].concat());
            let narrow = |number: u64| if wide { u32::MAX } else { number as u32 };
            let extra = if wide {
                [&1u16.to_le_bytes()[..], &24u16.to_le_bytes(), &size.to_le_bytes(), &size.to_le_bytes(), &header.to_le_bytes()].concat()
            } else {
                Vec::new()
            };
            directory.extend([ENTRY, &common(narrow(size)), &(name.len() as u16).to_le_bytes(), &(extra.len() as u16).to_le_bytes()].concat());
            directory.extend([&[0; 10][..], &narrow(header).to_le_bytes(), name.as_bytes(), &extra].concat());
        }
        let (place, length, count) = (file.len() as u64, directory.len() as u64, entries.len() as u64);
        file.extend(directory);
        if wide {
            let end = file.len() as u64;
            file.extend([END_64, &44u64.to_le_bytes(), &[0; 12]].concat());
            file.extend([count, count, length, place].iter().flat_map(|number| number.to_le_bytes()));
            file.extend([LOCATOR_64, &[0; 4], &end.to_le_bytes(), &1u32.to_le_bytes()].concat());
        }
        let (count, length, place) = if wide { (u16::MAX, u32::MAX, u32::MAX) } else { (count as u16, length as u32, place as u32) };
        file.extend([END, &[0; 4], &count.to_le_bytes(), &count.to_le_bytes(), &length.to_le_bytes(), &place.to_le_bytes(), &[0; 2]].concat());
        file
    }

    /// torch names the archive's folder after the file: no length of it may matter.
    #[test]
    fn a_folder_may_have_a_name_of_any_length() {
        for length in 1..=64 {
            for wide in [false, true] {
                let folder = "m".repeat(length);
                let names = [format!("{folder}/data.pkl"), format!("{folder}/byteorder"), format!("{folder}/data/0")];
                let file = archive(&[(&names[0], b"pickle"), (&names[1], b"little"), (&names[2], &[7; 300])], wide);
                let archive = Archive::read(&file).unwrap_or_else(|problem| panic!("{length}: {problem}"));
                assert_eq!(archive.entry(names[0].as_bytes()).unwrap(), Some(&b"pickle"[..]), "{length}");
                assert_eq!(archive.entry(names[2].as_bytes()).unwrap(), Some(&[7; 300][..]), "{length}");
                assert_eq!(archive.entry(b"absent").unwrap(), None);
                assert_eq!(archive.names().count(), 3);
            }
        }
    }

    #[test]
    fn what_is_cut_off_or_compressed_is_refused() {
        let file = archive(&[("a/data.pkl", b"pickle")], false);
        for length in 0..file.len() {
            assert!(Archive::read(&file[..length]).is_err(), "{length}");
        }
        // A comment may follow the end.
        let mut commented = file.clone();
        let last = commented.len() - 2;
        commented[last] = 3;
        assert!(Archive::read(&commented).is_err());
        commented.extend(b"PK!");
        assert!(Archive::read(&commented).is_ok());
        let mut compressed = file.clone();
        let entry = (0..file.len()).find(|&at| file[at..].starts_with(ENTRY)).unwrap();
        compressed[entry + 10] = 8;
        let problem = Archive::read(&compressed).unwrap().entry(b"a/data.pkl").unwrap_err();
        assert!(problem.contains("a/data.pkl is compressed"), "{problem}");
    }

    proptest! {
        #[test]
        fn survives_mutations(wide in any::<bool>(), edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
            let mut file = archive(&[("a/data.pkl", b"pickle"), ("a/data/0", &[1; 40])], wide);
            for (place, byte) in edits {
                let place = place.index(file.len());
                file[place] = byte;
            }
            if let Ok(archive) = Archive::read(&file) {
                for name in archive.names() {
                    let _ = archive.entry(name);
                }
            }
        }
    }
}
