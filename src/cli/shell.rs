//! `coupond completions` and `coupond man`: what shells and `man` need, made from the definition of
//! the command line.

use clap::{Args, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::arguments::Arguments;

/// Name of the program, and of its manual page.
const PROGRAM: &str = "coupond";

/// Section of manual pages for programs that users start. `man` sorts by it.
const SECTION: &str = "1";

#[derive(Debug, Args)]
pub(super) struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Returns the completion script of a shell.
pub(super) fn completions(arguments: &CompletionsArguments) -> String {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), PROGRAM, &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Returns the manual page in roff: first the program, then a section for each command.
pub(super) fn manual_page() -> String {
    // The command `help` repeats all others below itself.
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    let page = Man::new(program.clone()).section(SECTION);
    let mut text = rendered(|out| page.render_title(out));
    text.push_str(&part(|out| {
        page.render_name_section(out)?;
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)
    }));
    program.get_subcommands().for_each(|command| add_command(command, &mut text));
    text
}

/// Adds the section of a command, and those of the commands below it.
fn add_command(command: &clap::Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let page = Man::new(command.clone());
    let sections = part(|out| {
        page.render_synopsis_section(out)?;
        page.render_description_section(out)?;
        page.render_options_section(out)?;
        match command.get_after_long_help() {
            Some(_) => page.render_extra_section(out),
            None => Ok(()),
        }
    });
    text.push_str(&format!(".SH \"{}\"\n", name.to_uppercase()));
    for line in sections.lines() {
        // Sections of a page of its own are subsections of this one.
        let line = line.strip_prefix(".SH ").map_or_else(|| line.into(), |it| format!(".SS {it}"));
        text.push_str(&format!("{line}\n"));
    }
    command.get_subcommands().for_each(|below| add_command(below, text));
}

/// Returns what `render` writes, without the definition of the apostrophe. Each part begins with one,
/// and the title has it already.
fn part(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let is_preamble = |line: &&str| line.starts_with(".ie ") || line.starts_with(".el ");
    let mut text = String::new();
    for line in rendered(render).lines().filter(|line| !is_preamble(line)) {
        text.push_str(line);
        text.push('\n');
    }
    text
}

/// Returns what `render` writes.
fn rendered(render: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    render(&mut out).expect("memory takes every write");
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use clap::ValueEnum;

    use super::*;

    /// Returns the names of all commands with at least one of those above them, as a user types them.
    fn commands() -> Vec<String> {
        fn add(command: &clap::Command, names: &mut Vec<String>) {
            for below in command.get_subcommands() {
                names.push(below.get_bin_name().unwrap().to_owned());
                add(below, names);
            }
        }
        let mut program = Arguments::command().disable_help_subcommand(true);
        program.build();
        let mut names = Vec::new();
        add(&program, &mut names);
        names
    }

    /// Returns what bash offers for a line that ends in the middle of its last word.
    fn offered_by_bash(line: &[&str]) -> Vec<String> {
        let script = completions(&CompletionsArguments { shell: Shell::Bash });
        let (words, last) = (line.join(" "), line.len() - 1);
        let program = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={last}\n\
             _coupond coupond {} {}; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            line[last],
            line[last - 1]
        );
        let mut bash = Command::new("bash")
            .args(["--norc", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash is there, as for .ci/run");
        bash.stdin.take().unwrap().write_all(program.as_bytes()).unwrap();
        let output = bash.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_shell_gets_every_command_and_option() {
        for shell in Shell::value_variants() {
            let script = completions(&CompletionsArguments { shell: *shell });
            for word in ["campaign", "create", "print-config", "completions", "per-user-limit"] {
                assert!(script.contains(word), "{shell}: no {word}");
            }
        }
    }

    #[test]
    fn bash_completes_commands_options_and_shells() {
        assert_eq!(offered_by_bash(&["coupond", "cam"]), ["campaign"]);
        assert_eq!(offered_by_bash(&["coupond", "campaign", "pau"]), ["pause"]);
        let shells = offered_by_bash(&["coupond", "completions", "z"]);
        assert_eq!(shells, ["zsh"]);
        let options = offered_by_bash(&["coupond", "campaign", "create", "spring", "--quo"]);
        assert_eq!(options, ["--quota"]);
    }

    #[test]
    fn the_manual_page_has_a_section_for_each_command() {
        let page = manual_page();
        assert!(page.contains(".TH coupond 1 "), "{page}");
        let sections: Vec<_> =
            page.lines().filter_map(|line| line.strip_prefix(".SH \"COUPOND ")).collect();
        let commands: Vec<_> = commands()
            .iter()
            .map(|it| format!("{}\"", it["coupond ".len()..].to_uppercase()))
            .collect();
        assert_eq!(sections, commands);
        assert!(commands.contains(&"CAMPAIGN CREATE\"".to_owned()), "{commands:?}");
        assert!(page.contains("\\-\\-per\\-user\\-limit"), "{page}");
        assert!(page.contains("Answers file"), "what follows the help of the audit is missing");
        assert_eq!(page.matches("\\(aq").count(), 1, "the apostrophe is defined once");
        assert!(!page.contains("HELP"), "the command that repeats all others is in the page");
    }
}
