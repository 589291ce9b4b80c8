//! POSIX ACLs: from the text that GNU tar, star and bsdtar write to the extended attribute that Linux has.
//!
//! See acl(5), "ACL TEXT FORMS", and the kernel's `include/uapi/linux/posix_acl_xattr.h`.

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of an entry that has none.
const NO_ID: u32 = u32::MAX;
/// Bytes of an ACL that has the file's owner, its group and the others.
const MINIMAL: usize = 4 + 3 * 8;

/// Tag, permissions and id.
type Entry = (u16, u16, u32);

/// The attribute that a record of an extended header stands for, if it does for one, and its value, if that can be told.
pub(super) fn attribute(record: &[u8], text: &[u8]) -> Option<(&'static [u8], Option<Vec<u8>>)> {
    match record {
        // One that says no more than the permissions do is none to Linux.
        b"SCHILY.acl.access" => {
            Some((b"system.posix_acl_access", from_text(text).filter(|value| value.len() > MINIMAL)))
        }
        b"SCHILY.acl.default" => Some((b"system.posix_acl_default", from_text(text))),
        _ => None,
    }
}

/// The value of the extended attribute; `None` for what is not a valid ACL, and where an entry has a name but no id: who
/// that is, is known where the archive was made.
fn from_text(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|&b| b == b'\n' || b == b',');
    // `#effective:r--` is a comment.
    let lines = lines.map(|line| line.split(|&b| b == b'#').next().unwrap_or_default().trim_ascii());
    let entries: Option<Vec<Entry>> = lines.filter(|line| !line.is_empty()).map(entry).collect();
    let mut entries = entries?;
    // The tags have the order that the kernel wants.
    entries.sort_unstable_by_key(|&(tag, _, id)| (tag, id));
    let count = |wanted: u16| entries.iter().filter(|(tag, ..)| *tag == wanted).count();
    let masks = usize::from(count(USER) + count(GROUP) > 0)..=1;
    if [USER_OBJ, GROUP_OBJ, OTHER].map(count) != [1; 3] || !masks.contains(&count(MASK)) {
        return None;
    }
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    (value.len() <= super::pax::MAX_VALUE).then_some(value)
}

/// `TAG:NAME:PERMISSIONS`, with bsdtar and star `TAG:NAME:PERMISSIONS:ID`.
fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields = line.split(|&b| b == b':');
    let (tag, name, permissions) = (fields.next()?, fields.next()?, fields.next()?);
    let tag = match (tag, name.is_empty()) {
        (b"user" | b"u", true) => USER_OBJ,
        (b"user" | b"u", false) => USER,
        (b"group" | b"g", true) => GROUP_OBJ,
        (b"group" | b"g", false) => GROUP,
        (b"mask" | b"m", true) => MASK,
        (b"other" | b"o", true) => OTHER,
        _ => return None,
    };
    let id = match fields.next() {
        _ if name.is_empty() => NO_ID,
        id => super::pax::id(id.unwrap_or(name)).filter(|&id| id != NO_ID)?,
    };
    let bits = permissions.iter().map(|permission| match permission {
        b'r' => Some(4),
        b'w' => Some(2),
        b'x' => Some(1),
        b'-' => Some(0),
        _ => None,
    });
    let permissions = bits.reduce(|all, bit| Some(all? | bit?)).flatten()?;
    fields.next().is_none().then_some((tag, permissions, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_acl_or_has_a_name_without_an_id_is_none() {
        let whole = "user::rw-\ngroup::r--\nother::---\n";
        assert!(from_text(whole.as_bytes()).is_some_and(|value| value.len() == MINIMAL));
        for added in ["user:1000:rw-:1000\nmask::rwx", "u:nobody:rwx:7,g:8:---#effective:---,m::---"] {
            assert!(from_text([whole, added].concat().as_bytes()).is_some(), "{added}");
        }
        for bad in [
            "user:nobody:rw-\nmask::rw-",
            "user:1000:rw-",
            "user::rw-",
            "mask:1:rw-",
            "mask::rw-\nmask::r--",
            "user:1:rq-\nmask::rwx",
            "user:4294967295:r--\nmask::rwx",
            "user:4294967296:r--\nmask::rwx",
            "user:a:r--:1:2\nmask::rwx",
            "user:1:\nmask::rwx",
            "nobody::r--",
            ":",
        ] {
            assert_eq!(from_text([whole, bad].concat().as_bytes()), None, "{bad}");
        }
        assert_eq!(from_text(b"user::rw-"), None);
    }
}
