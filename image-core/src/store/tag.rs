//! Further names for images.

use super::{Store, replace};
use crate::{Error, Reference, Result};

impl Store {
    /// Gives the image that `source` means another name. An image that had the name stays without it.
    ///
    /// # Errors
    /// What [`Store::resolve`] answers, or a name with a digest.
    pub fn tag(&self, source: &str, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::InvalidReference {
                text: name.to_string(),
                reason: "a digest follows from the content; it cannot be given to an image",
            });
        }
        let workspace = self.workspace()?;
        let _lock = self.lock()?;
        let mut index = self.index()?;
        let entry = index.find(source)?.clone();
        index.add(&entry, std::slice::from_ref(name));
        replace(
            &workspace,
            &self.root().join("index.json"),
            &index.to_json()?,
        )
    }
}
