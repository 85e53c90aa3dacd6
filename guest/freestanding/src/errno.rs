//! Linux's error numbers in words.

/// What an error number means, as strerror(3) words it without a capital.
pub fn describe(number: i32) -> Description {
    Description(number)
}

/// An error number to be written in words.
pub struct Description(i32);

impl core::fmt::Display for Description {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // By Linux's include/uapi/asm-generic/errno-base.h and errno.h.
        let text = match self.0 {
            1 => "operation not permitted",
            2 => "no such file or directory",
            5 => "input/output error",
            6 => "no such device or address",
            7 => "argument list too long",
            8 => "exec format error",
            9 => "bad file descriptor",
            11 => "resource temporarily unavailable",
            12 => "cannot allocate memory",
            13 => "permission denied",
            16 => "device or resource busy",
            17 => "file exists",
            18 => "invalid cross-device link",
            19 => "no such device",
            20 => "not a directory",
            21 => "is a directory",
            22 => "invalid argument",
            24 => "too many open files",
            26 => "text file busy",
            27 => "file too large",
            28 => "no space left on device",
            30 => "read-only file system",
            32 => "broken pipe",
            36 => "file name too long",
            38 => "function not implemented",
            39 => "directory not empty",
            40 => "too many levels of symbolic links",
            95 => "operation not supported",
            97 => "address family not supported",
            99 => "cannot assign requested address",
            101 => "network is unreachable",
            117 => "structure needs cleaning",
            122 => "disk quota exceeded",
            other => return write!(f, "error {other}"),
        };
        f.write_str(text)
    }
}
