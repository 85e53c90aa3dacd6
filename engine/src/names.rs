//! Identifiers and names of instances: 64 hexadecimal digits, and `adjective_surname` where the user gives no name.

use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::{Error, Result};

/// The left halves of generated names. Sea words, as a ship's load line deserves.
const ADJECTIVES: [&str; 48] = [
    "able", "amber", "ample", "awash", "becalmed", "bold", "brave", "breezy", "bright", "brisk",
    "buoyant", "calm", "clear", "coastal", "deep", "eager", "even", "fair", "fresh", "gentle",
    "hardy", "jolly", "keen", "laden", "leeward", "level", "light", "lively", "lucky", "mellow",
    "merry", "nimble", "patient", "plain", "proud", "quick", "quiet", "ready", "sea_fit", "sound",
    "steady", "stout", "swift", "tidal", "trim", "upright", "windward", "wise",
];

/// The right halves: people who made ships, computers or numbers safer.
const SURNAMES: [&str; 48] = [
    "archimedes",
    "babbage",
    "bell",
    "bernoulli",
    "boole",
    "brunel",
    "curie",
    "dijkstra",
    "erlang",
    "euler",
    "falconer",
    "fisher",
    "fourier",
    "froude",
    "gauss",
    "germain",
    "gosset",
    "hamilton",
    "harrison",
    "hopper",
    "johnson",
    "kalman",
    "kelvin",
    "knuth",
    "lamport",
    "liskov",
    "lovelace",
    "maury",
    "mercator",
    "meyer",
    "mueller",
    "nightingale",
    "noether",
    "parsons",
    "pascal",
    "perlman",
    "plimsoll",
    "popek",
    "quetelet",
    "reynolds",
    "ritchie",
    "shannon",
    "stokes",
    "thompson",
    "turing",
    "tukey",
    "wilkes",
    "yi",
];

/// The length of an identifier.
const ID_BYTES: usize = 32;

/// `N` bytes, at most 256, of the kernel's random source.
///
/// # Errors
/// Those of getrandom(2).
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    use rustix::rand::{GetRandomFlags, getrandom};
    let mut bytes = [0; N];
    // So few come whole (getrandom(2)).
    if getrandom(&mut bytes, GetRandomFlags::empty())? < N {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

/// The same, told as the engine tells errors.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    random().map_err(|source| Error::System {
        action: "ask the kernel for random bytes",
        source,
    })
}

/// A new instance identifier: 64 lower-case hexadecimal digits.
pub(crate) fn new_id() -> Result<String> {
    Ok(hexadecimal(&random_bytes::<ID_BYTES>()?))
}

/// The identifier as the text of a symbolic link: 43 characters of base64url. Up to 59 bytes an inode holds by itself; the
/// digits would take a block, and the time to find one and to give it back.
pub(crate) fn link_of(id: &str) -> String {
    let bytes: Option<Vec<u8>> = (0..id.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(id.get(at..at + 2)?, 16).ok())
        .collect();
    // What is no identifier of ours stands for itself.
    bytes.map_or_else(|| id.to_owned(), |bytes| URL_SAFE_NO_PAD.encode(bytes))
}

/// The identifier that such a link names. An older one has all of its digits.
pub(crate) fn id_of(link: &Path) -> String {
    let text = link.to_string_lossy();
    match URL_SAFE_NO_PAD.decode(text.as_bytes()) {
        Ok(bytes) if bytes.len() == ID_BYTES => hexadecimal(&bytes),
        _ => text.into_owned(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A generated name; the caller tries again when it is taken.
pub(crate) fn generate() -> Result<String> {
    let [a, b, c, d]: [u8; 4] = random_bytes()?;
    let adjective = ADJECTIVES[usize::from(u16::from_le_bytes([a, b])) % ADJECTIVES.len()];
    let surname = SURNAMES[usize::from(u16::from_le_bytes([c, d])) % SURNAMES.len()];
    Ok(format!("{}_{surname}", adjective.replace('_', "")))
}

/// Whether `name` may name an instance: docker's rule, `[a-zA-Z0-9][a-zA-Z0-9_.-]+`, and short enough for a file name.
pub fn is_valid(name: &str) -> bool {
    let mut characters = name.chars();
    characters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && name.len() <= 128
        && characters.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

/// Whether `name` may name a network: docker's rule, one character being enough, and short enough for a file name.
pub(crate) fn is_valid_network(name: &str) -> bool {
    is_valid(name) || (name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_64_hexadecimal_digits_and_differ() {
        let (a, b) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(a.len(), 64);
        assert!(
            a.bytes()
                .all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
        );
        assert_ne!(a, b);
    }

    #[test]
    fn a_link_holds_an_identifier_in_what_an_inode_has_room_for() {
        let id = new_id().unwrap();
        let link = link_of(&id);
        assert!(link.len() < 60, "{link}");
        assert_eq!(id_of(Path::new(&link)), id);
        assert_eq!(id_of(Path::new(&id)), id, "as older ones have it");
    }

    #[test]
    fn generated_names_are_valid() {
        for _ in 0..200 {
            let name = generate().unwrap();
            assert!(is_valid(&name), "{name}");
            assert_eq!(name.split('_').count(), 2, "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_their_folder_are_invalid() {
        for name in [
            "",
            "a",
            ".",
            "..",
            "../x",
            "a/b",
            "-x",
            "_x",
            "a b",
            "a\n",
            &"x".repeat(129),
        ] {
            assert!(!is_valid(name), "{name:?}");
        }
    }
}
