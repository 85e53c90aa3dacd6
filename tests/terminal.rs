//! `-i -t` in a real terminal, inside tmux, on every backend that starts quickly here.

mod common;

use common::tmux::Terminal;
use common::{Host, ways};

#[test]
fn the_window_has_its_size_from_the_start_and_follows_it() {
    for way in ways() {
        let host = Host::new();
        let Some(terminal) = Terminal::start(&host) else {
            return;
        };
        let before = terminal.settings(1);
        // The command asks at once: a size that is set later would come too late.
        terminal.plimsoll(&format!(
            "run --rm -it --network none {} plimsoll/base sh -c 'echo at-first $(stty size); exec sh'",
            way.join(" ")
        ));
        terminal.shows("at-first 25 90");
        terminal.answers(1001);
        terminal.resize(70, 33);
        terminal
            .types("while [ \"$(stty size)\" != '33 70' ]; do sleep 0.1; done; echo now-$((30+3))");
        terminal.shows("now-33");
        terminal.types("exit");
        terminal.is_outside(1);
        let same = |settings: &str| settings.replace("rows 33; columns 70", "rows 25; columns 90");
        assert_eq!(same(&terminal.settings(2)), before, "{way:?}");
        assert!(host.leftovers().is_empty(), "{:?}", host.leftovers());
    }
}

#[test]
fn ctrl_d_and_exit_end_it_and_the_terminal_is_as_before() {
    for way in ways() {
        let host = Host::new();
        let Some(terminal) = Terminal::start(&host) else {
            return;
        };
        let before = terminal.settings(1);
        let run = format!(
            "run --rm -it --network none {} plimsoll/base sh",
            way.join(" ")
        );
        terminal.plimsoll(&format!("{run}; echo code-$(($?+100))"));
        terminal.answers(1001);
        terminal.presses(&["C-d"]);
        terminal.shows("code-100");
        assert_eq!(terminal.settings(2), before, "after ctrl-d: {way:?}");
        terminal.plimsoll(&format!("{run}; echo code-$(($?+200))"));
        terminal.answers(1002);
        // ctrl-c is for the shell inside, which goes on.
        terminal.presses(&["C-c"]);
        terminal.answers(1003);
        terminal.types("exit 7");
        terminal.shows("code-207");
        assert_eq!(terminal.settings(3), before, "after exit: {way:?}");
        // A command that cannot be run leaves the terminal as it was, too.
        terminal.plimsoll(&format!(
            "run --rm -it --network none {} plimsoll/base no-such-program; echo code-$(($?+300))",
            way.join(" ")
        ));
        terminal.shows("code-427");
        assert_eq!(terminal.settings(4), before, "after a failure: {way:?}");
    }
}

#[test]
fn ctrl_p_ctrl_q_leaves_it_running_and_attach_comes_back() {
    for way in ways() {
        let host = Host::new();
        let Some(terminal) = Terminal::start(&host) else {
            return;
        };
        let before = terminal.settings(1);
        terminal.plimsoll(&format!(
            "run -it --name left --network none {} plimsoll/base sh",
            way.join(" ")
        ));
        terminal.answers(1001);
        terminal.types("kept=of-before");
        terminal.presses(&["C-p", "C-q"]);
        terminal.is_outside(1);
        assert_eq!(terminal.settings(2), before, "after ctrl-p ctrl-q: {way:?}");
        let running = host.plimsoll(["ps", "--format", "{{.Names}} {{.State}}"]);
        assert_eq!(running.ok(), "left running", "{way:?}");
        // The window changed while nobody looked.
        terminal.resize(72, 31);
        terminal.plimsoll("attach left");
        terminal.types("echo back-$kept-$((40+2))");
        terminal.shows("back-of-before-42");
        terminal.types(
            "while [ \"$(stty size)\" != '31 72' ]; do sleep 0.1; done; echo size-$((30+1))",
        );
        terminal.shows("size-31");
        // A single ctrl-p is the shell's.
        terminal.presses(&["C-p", "C-u"]);
        terminal.answers(1002);
        terminal.presses(&["C-p", "C-q"]);
        terminal.is_outside(2);
        // Other keys, where they are asked for.
        terminal.plimsoll("attach --detach-keys ctrl-a,x left");
        terminal.answers(1003);
        terminal.presses(&["C-a", "x"]);
        terminal.is_outside(3);
        assert_eq!(
            host.plimsoll(["ps", "-q", "--no-trunc"]).ok().len(),
            64,
            "{way:?}"
        );
        terminal.plimsoll("attach left; echo code-$(($?+500))");
        terminal.answers(1004);
        terminal.types("exit 5");
        terminal.shows("code-505");
        let same = |settings: &str| settings.replace("rows 31; columns 72", "rows 25; columns 90");
        assert_eq!(same(&terminal.settings(3)), before, "{way:?}");
        assert_eq!(
            host.plimsoll([
                "inspect",
                "-f",
                "{{.State.Status}} {{.State.ExitCode}}",
                "left"
            ])
            .ok(),
            "exited 5",
            "{way:?}"
        );
        host.plimsoll(["rm", "left"]).ok();
    }
}

#[test]
fn exec_has_a_terminal_of_its_own() {
    for way in ways() {
        let host = Host::new();
        let Some(terminal) = Terminal::start(&host) else {
            return;
        };
        let run = [
            &["run", "-d", "--name", "up", "--network", "none"],
            way.as_slice(),
            &["plimsoll/base", "sleep", "1000"],
        ]
        .concat();
        host.plimsoll(run).ok();
        let before = terminal.settings(1);
        terminal.plimsoll(
            "exec -it up sh -c 'echo at-first $(stty size); exec sh'; echo code-$(($?+100))",
        );
        terminal.shows("at-first 25 90");
        terminal.answers(1001);
        terminal.types("exit 3");
        terminal.shows("code-103");
        assert_eq!(terminal.settings(2), before, "{way:?}");
        host.plimsoll(["rm", "-f", "up"]).ok();
    }
}
