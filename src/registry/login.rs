//! `plimsoll login` and `plimsoll logout`.

use std::io::{self, BufRead, IsTerminal, Read, Write};

use anyhow::{Context, bail};
use engine::registry::{Credentials, Server, Stored};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};

use super::client;
use crate::cli::{LoginArguments, LogoutArguments};

/// The longest password that is read.
const LONGEST: u64 = 1 << 20;

pub(crate) fn login(arguments: &LoginArguments) -> anyhow::Result<u8> {
    let server = server(arguments.server.as_deref())?;
    let client = client()?;
    if arguments.password_stdin && arguments.username.is_none() {
        bail!("--password-stdin needs --username");
    }
    if arguments.username.is_none()
        && arguments.password.is_none()
        && let Some(kept) = client.credentials(&server)?
    {
        println!("Authenticating with existing credentials...");
        client.login(&server, &kept)?;
        println!("Login Succeeded");
        return Ok(0);
    }
    let password = if arguments.password_stdin {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(LONGEST)
            .read_to_string(&mut text)
            .context("cannot read the password from standard input")?;
        Some(text.trim_end_matches(['\n', '\r']).to_owned())
    } else {
        if arguments.password.is_some() {
            eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        }
        arguments.password.clone()
    };
    let asks = arguments.username.is_none() || password.is_none();
    if asks && !io::stdin().is_terminal() {
        bail!(
            "cannot perform an interactive login from a non TTY device: use --username and --password-stdin"
        );
    }
    let user = match &arguments.username {
        Some(user) => user.clone(),
        None => ask("Username: ", false)?,
    };
    let password = match password {
        Some(password) => password,
        None => ask("Password: ", true)?,
    };
    if user.is_empty() {
        bail!("a user name is needed (--username)");
    }
    if password.is_empty() {
        bail!("a password is needed (--password-stdin)");
    }
    let credentials = Credentials::Password { user, password };
    if let Stored::File(path) = client.login(&server, &credentials)? {
        eprintln!(
            "WARNING! Your credentials are stored unencrypted in '{}'.\n\
             Configure a credential helper to remove this warning. See\n\
             https://docs.docker.com/go/credential-store/",
            path.display()
        );
    }
    println!("Login Succeeded");
    Ok(0)
}

pub(crate) fn logout(arguments: &LogoutArguments) -> anyhow::Result<u8> {
    let server = server(arguments.server.as_deref())?;
    if client()?.logout(&server)? {
        println!("Removing login credentials for {}", server.key());
    } else {
        println!("Not logged in to {}", server.key());
    }
    Ok(0)
}

fn server(text: Option<&str>) -> anyhow::Result<Server> {
    match text {
        Some(text) => Ok(Server::parse(text)?),
        None => Ok(Server::hub()),
    }
}

/// Asks on the terminal; a secret without showing what is typed.
fn ask(question: &str, is_secret: bool) -> anyhow::Result<String> {
    let stdin = io::stdin();
    eprint!("{question}");
    io::stderr().flush()?;
    let before = tcgetattr(&stdin)?;
    if is_secret {
        let mut quiet = before.clone();
        quiet.local_flags.remove(LocalFlags::ECHO);
        tcsetattr(&stdin, SetArg::TCSANOW, &quiet)?;
    }
    let mut line = String::new();
    let read = stdin.lock().take(LONGEST).read_line(&mut line);
    if is_secret {
        tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
        eprintln!();
    }
    read.context("cannot read from the terminal")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
