//! What is done with registries: `pull`, `push`, `login`, `logout`, and the pull before a `run`.

mod login;
mod pull;
mod show;

use engine::base;
use engine::registry::{Client, DockerConfig, RegistryError};
use engine::{ImageError, Reference};

pub(crate) use login::{login, logout};
pub(crate) use pull::{Wanted, pull, push, with_image};

fn client() -> anyhow::Result<Client> {
    Ok(Client::new(DockerConfig::of_user()?))
}

/// What is built into this program goes to no registry, and comes from none.
fn refuse_built_in(name: &Reference) -> anyhow::Result<()> {
    if name.repository() == base::NAME {
        let refused = RegistryError::BuiltIn(name.to_string());
        return Err(ImageError::from(refused).into());
    }
    Ok(())
}
