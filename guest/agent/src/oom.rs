//! Whether the guest's kernel ran out of memory.

use crate::sys::{Result, file, mount};

/// Whether the kernel has killed anything for want of memory since it started: its own count, `oom_kill` in /proc/vmstat.
/// A kernel without VM_EVENT_COUNTERS does not count, and then the answer is no.
pub(crate) fn has_killed() -> bool {
    count().is_ok_and(|count| count > 0)
}

fn count() -> Result<u64> {
    let file = mount::open_in_new_proc(c"vmstat")?;
    let mut text = alloc::vec![0u8; 16 << 10];
    let mut length = 0;
    while let Some(space) = text.get_mut(length..)
        && !space.is_empty()
    {
        match file::read(&file, space)? {
            0 => break,
            more => length += more,
        }
    }
    Ok(field(&text[..length], b"oom_kill "))
}

/// The number that follows a name at the start of a line, or 0.
fn field(text: &[u8], name: &[u8]) -> u64 {
    text.split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(name))
        .and_then(|number| core::str::from_utf8(number).ok()?.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let text = b"nr_free 7\noom_killed 9\noom_kill 3\nlast 1\n";
        assert_eq!(field(text, b"oom_kill "), 3);
        assert_eq!(field(text, b"absent "), 0);
        assert_eq!(field(b"oom_kill x", b"oom_kill "), 0);
    }
}
