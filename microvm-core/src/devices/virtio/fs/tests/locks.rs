//! Locks, within a guest and against others on the host.

use std::os::fd::AsRawFd;

use super::*;

const READ: i32 = libc::F_RDLCK;
const WRITE: i32 = libc::F_WRLCK;
const UNLOCK: i32 = libc::F_UNLCK;

/// A struct fuse_lk_in.
fn lock(owner: u64, range: (u64, u64), mode: i32, flock: bool) -> Body {
    let asked = body().u64(0).u64(owner).u64(range.0).u64(range.1);
    asked.u32(mode as u32).u32(1).u32(flock.into()).u32(0)
}

const WHOLE: (u64, u64) = (0, i64::MAX as u64);

fn client() -> (Client, u64) {
    let mut client = Client::new(false);
    fs::write(client.host("a"), "0123456789").unwrap();
    let node = client.walk("a");
    (client, node)
}

fn set(client: &mut Client, node: u64, asked: Body) -> Result<(), i32> {
    client.call(opcode::SETLK, node, asked).map(drop)
}

#[test]
fn owners_keep_each_other_out_by_ranges() {
    let (mut client, node) = client();
    set(&mut client, node, lock(1, (0, 4), WRITE, false)).unwrap();
    assert_eq!(
        set(&mut client, node, lock(2, (4, 9), READ, false)),
        Err(libc::EAGAIN)
    );
    set(&mut client, node, lock(2, (5, 9), READ, false)).unwrap();
    set(&mut client, node, lock(3, (5, 9), READ, false)).unwrap();
    let reply = client
        .call(opcode::GETLK, node, lock(2, WHOLE, WRITE, false))
        .unwrap();
    assert_eq!(reply.len(), 24, "struct fuse_lk_out");
    assert_ne!(reply[16..20], (UNLOCK as u32).to_ne_bytes());
    set(&mut client, node, lock(1, (0, 4), UNLOCK, false)).unwrap();
    set(&mut client, node, lock(2, (4, 9), READ, false)).unwrap();
    // Closing any file of theirs gives up an owner's locks.
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    for owner in [2, 3] {
        client
            .call(
                opcode::FLUSH,
                node,
                body().u64(handle).u32(0).u32(0).u64(owner),
            )
            .unwrap();
    }
    set(&mut client, node, lock(4, WHOLE, WRITE, false)).unwrap();
}

#[test]
fn locks_hold_against_others_on_the_host() {
    let (mut client, node) = client();
    let file = File::options()
        .read(true)
        .write(true)
        .open(client.host("a"))
        .unwrap();
    file.lock().unwrap();
    assert_eq!(
        set(&mut client, node, lock(1, WHOLE, WRITE, true)),
        Err(libc::EAGAIN)
    );
    file.unlock().unwrap();
    set(&mut client, node, lock(1, WHOLE, WRITE, true)).unwrap();
    assert!(file.try_lock().is_err());
    let handle = client.open(node, libc::O_RDONLY).unwrap();
    let release = body().u64(handle).u32(0).u32(RELEASE_FLOCK_UNLOCK).u64(1);
    client.call(opcode::RELEASE, node, release).unwrap();
    file.try_lock().unwrap();

    set(&mut client, node, lock(1, (0, 4), WRITE, false)).unwrap();
    let mut theirs = libc::flock {
        l_type: WRITE as i16,
        l_whence: 0,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    // SAFETY: the command reads one flock.
    let refused = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut theirs) };
    assert_eq!(refused, -1, "it would lock what the guest has locked");
    client.forget(node, 1);
    // SAFETY: as above.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut theirs) };
    assert_eq!(locked, 0, "a file that is forgotten has no locks");
}

#[test]
fn who_would_wait_is_told_later() {
    let (mut client, node) = client();
    set(&mut client, node, lock(1, WHOLE, WRITE, false)).unwrap();
    let mut buffers = Buffers {
        data: Vec::new(),
        room: Vec::new(),
        pieces: Vec::new(),
    };
    let asked = lock(2, WHOLE, WRITE, false);
    let outcome = client.outcome(opcode::SETLKW, node, &asked, &mut buffers, &mut Vec::new());
    let Ok(Outcome::Later(wanted)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(client.server.lock_with(&wanted), Err(Errno(libc::EAGAIN)));
    set(&mut client, node, lock(1, WHOLE, UNLOCK, false)).unwrap();
    assert_eq!(client.server.lock_with(&wanted), Ok(()));
    assert_eq!(
        set(&mut client, node, lock(1, WHOLE, READ, false)),
        Err(libc::EAGAIN)
    );
}

#[test]
fn locks_that_make_no_sense_are_refused() {
    let (mut client, node) = client();
    for asked in [
        lock(1, (5, 4), WRITE, false),
        lock(1, (0, u64::MAX), WRITE, false),
        lock(1, WHOLE, 99, false),
        lock(1, WHOLE, -1, true),
    ] {
        assert_eq!(set(&mut client, node, asked), Err(libc::EINVAL));
    }
    assert_eq!(
        set(&mut client, 999, lock(1, WHOLE, WRITE, false)),
        Err(libc::ESTALE)
    );
    assert_eq!(
        set(&mut client, ROOT, lock(1, WHOLE, WRITE, true)),
        Err(libc::EROFS)
    );
    // Nothing to unlock is no error.
    set(&mut client, node, lock(1, WHOLE, UNLOCK, false)).unwrap();
    assert_eq!(client.server.locks.count(), 0);
}

#[test]
fn a_directory_and_a_read_only_share_can_be_locked() {
    let (mut client, _) = client();
    set(&mut client, SHARE, lock(1, WHOLE, WRITE, true)).unwrap();
    let directory = File::open(client.host("")).unwrap();
    assert!(directory.try_lock().is_err());
    let mut client = Client::new(true);
    fs::write(client.host("a"), "").unwrap();
    let node = client.walk("a");
    set(&mut client, node, lock(1, WHOLE, WRITE, true)).unwrap();
    set(&mut client, node, lock(1, WHOLE, READ, false)).unwrap();
    assert_eq!(
        set(&mut client, node, lock(1, WHOLE, WRITE, false)),
        Err(libc::EBADF)
    );
}
