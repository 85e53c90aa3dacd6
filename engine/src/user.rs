//! `user[:group]` to numbers, by the image's own passwd and group files (never the host's).

use crate::error::{Error, Result};

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
    /// Home directory; `/` where the image names none, as docker has it.
    pub(crate) home: String,
}

impl Identity {
    /// Root, as far as nothing else is known.
    pub(crate) fn root() -> Self {
        Self {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".to_owned(),
        }
    }
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(PasswdEntry {
            name,
            uid,
            gid,
            home: fields.nth(1).unwrap_or(""),
        })
    })
}

fn group(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(GroupEntry {
            name,
            gid,
            members: fields.next().unwrap_or(""),
        })
    })
}

/// The largest user or group ID: 2^32-1 means "unchanged" to the kernel.
const ID_MAX: u32 = u32::MAX - 1;

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id <= ID_MAX)
}

/// Resolves `user[:group]` (empty: root) as docker does: names by the files, numbers also without an entry,
/// supplementary groups from the group file unless a group is named.
///
/// # Errors
/// [`Error::NoSuchUser`] for a name that is in neither file.
pub(crate) fn resolve(wanted: &str, passwd_file: &str, group_file: &str) -> Result<Identity> {
    let (user, named_group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // A name that consists of digits is looked up as a name first, as docker does.
    let entry = passwd(passwd_file)
        .find(|entry| entry.name == user)
        .or_else(|| {
            number(user).and_then(|uid| passwd(passwd_file).find(|entry| entry.uid == uid))
        });
    let missing = || Error::NoSuchUser(wanted.to_owned());
    let uid = match &entry {
        Some(entry) => entry.uid,
        None => number(user).ok_or_else(missing)?,
    };
    let own_group = entry.as_ref().map_or(0, |entry| entry.gid);
    let (gid, groups) = match named_group {
        Some(name) => {
            let gid = group(group_file)
                .find(|entry| entry.name == name)
                .map(|entry| entry.gid)
                .or_else(|| number(name))
                .ok_or_else(missing)?;
            (gid, Vec::new())
        }
        None => {
            let groups = entry.as_ref().map_or_else(Vec::new, |user| {
                group(group_file)
                    .filter(|entry| entry.members.split(',').any(|member| member == user.name))
                    .map(|entry| entry.gid)
                    .collect()
            });
            (own_group, groups)
        }
    };
    let home = entry.map_or("", |entry| entry.home);
    // The primary group is among the supplementary ones, as docker has it: a file that denies its group something must not be
    // opened by giving the group up (CVE-2022-36109).
    let mut all = vec![gid];
    all.extend(groups.into_iter().filter(|group| *group != gid));
    Ok(Identity {
        uid,
        gid,
        groups: all,
        home: if home.is_empty() { "/" } else { home }.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:w:/srv/web:/bin/sh\n12:x:99:98::/twelve:\n";
    const GROUP: &str = "root:x:0:\naudio:x:29:web,root\nweb:x:34:\nbad:x:y:\nvideo:x:44:web\n";

    fn identity(uid: u32, gid: u32, groups: &[u32], home: &str) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        }
    }

    #[test]
    fn no_user_is_root_with_its_groups() {
        assert_eq!(
            resolve("", PASSWD, GROUP).unwrap(),
            identity(0, 0, &[0, 29], "/root")
        );
        assert_eq!(resolve("", "", "").unwrap(), identity(0, 0, &[0], "/"));
    }

    #[test]
    fn names_and_numbers_find_the_same_entry() {
        let web = identity(33, 34, &[34, 29, 44], "/srv/web");
        assert_eq!(resolve("web", PASSWD, GROUP).unwrap(), web);
        assert_eq!(resolve("33", PASSWD, GROUP).unwrap(), web);
        assert_eq!(
            resolve("12", PASSWD, GROUP).unwrap(),
            identity(99, 98, &[98], "/twelve")
        );
    }

    #[test]
    fn a_number_needs_no_entry_and_a_name_does() {
        assert_eq!(
            resolve("1234:video", PASSWD, GROUP).unwrap(),
            identity(1234, 44, &[44], "/")
        );
        assert_eq!(
            resolve("web:77", PASSWD, GROUP).unwrap(),
            identity(33, 77, &[77], "/srv/web")
        );
        for wanted in ["ghost", "web:ghosts", "-1", "4294967295", "0x10"] {
            let error = resolve(wanted, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
