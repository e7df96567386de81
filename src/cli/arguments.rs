//! Commands, arguments and options.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::{
    audit::AuditArguments,
    campaign::SkipArguments,
    changes::ChangesArguments,
    chaos::ChaosArguments,
    rehearse::RehearseArguments,
    secret::SecretArguments,
    shell::CompletionsArguments,
    terms::{AmendmentFlags, DefinitionFlags},
    tls_files::TlsFiles,
};
use crate::domain::ids::{CampaignId, IdempotencyKey, UserId};

/// Issues a limited number of coupons, first come first served, and can prove that it did.
///
/// Without a command it runs a node, like `serve`. Exit codes: 0 success, 1 failure, 2 usage or
/// configuration, 3 an invariant is broken.
#[derive(Debug, Parser)]
#[command(name = "coupond", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Options that select settings; accepted before and after each subcommand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(super) struct Settings {
    /// TOML file with settings [default: config/coupond.toml if it exists]
    #[arg(long, value_name = "FILE", display_order = 100)]
    pub(super) config: Option<PathBuf>,
    /// Set one setting; overrides the environment and the file; repeatable. The value is TOML; a
    /// bare word is a string; a list may be comma-separated
    #[arg(long, value_name = "KEY=VALUE", display_order = 101)]
    pub(super) set: Vec<String>,
}

impl Settings {
    /// Merges the options of a subcommand: its file replaces ours, its `--set` follow ours.
    fn then(mut self, inner: &Self) -> Self {
        self.config = inner.config.clone().or(self.config);
        self.set.extend(inner.set.iter().cloned());
        self
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a node
    Serve(ServeArguments),
    /// Manage campaigns through the admin listener
    Campaign(CampaignArguments),
    /// Request one coupon through the public listener
    Issue(IssueArguments),
    /// Skip a range of a partition that nobody can read; its requests are never decided
    ///
    /// Give the partition and the offset at which it is halted, as the node says it. The owner passes
    /// the range 15 s later; requests in it are answered 410 from then on. Repeating the command shows
    /// the state: made, in_force or void.
    Skip(SkipArguments),
    /// List who changed what, and what came of it
    Changes(ChangesArguments),
    /// Keep the secret of the instance in a file of your own
    Secret(SecretArguments),
    /// Make an actor panic, to see what follows; the node needs chaos.enabled
    ///
    /// Names one campaign, one partition or the supervisor. The node that is called must own the
    /// partition. A coupon actor and a partition consumer are restarted by the supervisor; with the
    /// supervisor the node ends.
    Crash(CrashArguments),
    /// Report every problem of the configuration
    CheckConfig(ServeArguments),
    /// Print the effective settings; secrets are hidden
    PrintConfig(PrintArguments),
    /// Check every invariant against request log and coupon store
    Audit(AuditArguments),
    /// Check whether a node is ready (exit code 0) or not (1)
    Health(HealthArguments),
    /// Break real nodes and engines under load, by a schedule drawn from a seed, and judge every answer
    ///
    /// Starts nodes of its own, on engines of its own or embedded, and touches nothing else. Links are cut
    /// in a network namespace of its own, where it is root. Exit codes: 0 nothing is broken, 1 it could not
    /// be run, 2 usage, 3 something is broken; the folder has what it takes to run that cycle again.
    Chaos(ChaosArguments),
    /// Run the whole system in simulated worlds with injected faults, and check every invariant
    ///
    /// Ctrl-C stops early and prints the results so far. Exit codes: 0 no invariant broken, 1 not all
    /// worlds were run, 2 usage, 3 an invariant is broken, or a kind of fault never occurred in 20,000
    /// worlds or more.
    Simulate(SimulateArguments),
    /// Rehearse an event: load, figures and verdicts, as one report
    Rehearse(RehearseArguments),
    /// Print the completion script of a shell
    ///
    /// For example: coupond completions bash > ~/.local/share/bash-completion/completions/coupond
    Completions(CompletionsArguments),
    /// Print the manual page, in roff
    ///
    /// Read it: coupond man | man -l -
    Man,
}

impl Arguments {
    /// Merges the settings options of all levels and returns them with the command.
    pub(super) fn settled(self) -> (Settings, Command) {
        let command = self.command.unwrap_or_else(|| Command::Serve(ServeArguments::default()));
        let settings = match &command {
            Command::Serve(inner) | Command::CheckConfig(inner) => {
                self.settings.then(&inner.settings)
            }
            Command::Campaign(inner) => {
                self.settings.then(&inner.listener.settings).then(inner.action.settings())
            }
            Command::Issue(inner) => self.settings.then(&inner.settings),
            Command::Skip(inner) => self.settings.then(&inner.listener.settings),
            Command::Changes(inner) => self.settings.then(&inner.listener.settings),
            Command::Secret(inner) => self.settings.then(&inner.listener().settings),
            Command::Crash(inner) => self.settings.then(&inner.listener.settings),
            Command::PrintConfig(inner) => self.settings.then(&inner.settings),
            Command::Health(inner) => self.settings.then(&inner.settings),
            Command::Audit(inner) => self.settings.then(&inner.settings),
            Command::Simulate(_) | Command::Chaos(_) => self.settings,
            Command::Completions(_) | Command::Man => self.settings,
            Command::Rehearse(inner) => self.settings.then(&inner.settings),
        };
        (settings, command)
    }
}

#[derive(Debug, Default, Args)]
pub(super) struct ServeArguments {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct PrintArguments {
    #[command(flatten)]
    settings: Settings,
    /// Print every setting with its meaning and default instead
    #[arg(long)]
    pub(super) defaults: bool,
}

#[derive(Debug, Args)]
pub(super) struct HealthArguments {
    #[command(flatten)]
    settings: Settings,
    /// URL of the admin listener, or unix:/path [default: where admin.listen says, https:// with admin.tls]
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    #[command(flatten)]
    pub(super) tls: TlsFiles,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) const ANSWERS_HELP: &str = "\
Answers file: one line per call of POST /coupon/issue or GET /coupon/requests/{request_id}, in any
order:

  {\"time\":\"2026-11-26T12:00:00.123Z\",\"user\":\"ada\",\"campaign\":\"spring\",\"key\":\"k-1\",
   \"status\":200,\"body\":{\"request_id\":\"...\",\"status\":\"issued\",\"coupon\":{...}}}

time: when the client got the answer. key: the idempotency key; absent if there was none. status:
the HTTP status; 0 if there was no answer. body: the unchanged body; absent if there was none.";

#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// Number of worlds
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(super) seeds: u64,
    /// Seed of the first world
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Worlds in parallel [default: one per core]
    #[arg(long, value_name = "J")]
    pub(super) jobs: Option<usize>,
    /// Kinds of faults to inject, comma-separated, or "none" [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) faults: Option<Vec<String>>,
    /// Client requests per world, not counting retries
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(super) requests: u32,
    /// List the kinds of faults and exit
    #[arg(long)]
    pub(super) list_faults: bool,
    /// Run every world twice and compare: the same seed must give the same events
    #[arg(long)]
    pub(super) twice: bool,
    /// Play this course instead of worlds drawn from seeds
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "seeds", "faults", "requests"])]
    pub(super) course: Option<PathBuf>,
    /// Where the course of a broken world is written, made short
    #[arg(long, value_name = "FILE")]
    pub(super) save: Option<PathBuf>,
    /// Do not make the course of a broken world short
    #[arg(long)]
    pub(super) no_shrink: bool,
    /// Print what happens in each world
    #[arg(long)]
    pub(super) trace: bool,
    /// Continue after a broken invariant, and count the broken worlds
    #[arg(long)]
    pub(super) keep_going: bool,
}

#[derive(Debug, Args)]
pub(super) struct CampaignArguments {
    #[command(flatten)]
    pub(super) listener: AdminListener,
    #[command(subcommand)]
    pub(super) action: CampaignAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum CampaignAction {
    /// Create a campaign; repeating the same command is not an error, another definition is refused
    Create(CreateArguments),
    /// Change a campaign; options that are not given stay unchanged
    Amend(AmendArguments),
    /// List all campaigns, ordered by id
    List(ListArguments),
    /// Show a campaign
    Show(OneCampaign),
    /// Make campaigns be as files define them: creates those that are missing, amends the others
    Apply(ApplyArguments),
    /// Print the definition of a campaign, as apply takes it
    Export(OneCampaign),
    /// Pause a campaign: no coupons until it is resumed
    Pause(OneCampaign),
    /// Resume a paused campaign
    Resume(OneCampaign),
    /// Close a campaign for good
    Close(OneCampaign),
    /// Release the hold of a quarantined campaign, so that it decides again
    Release(OneCampaign),
    /// Make the coupon actor of a campaign panic, like `coupond crash`
    Crash(OneCampaign),
}

impl CampaignAction {
    fn settings(&self) -> &Settings {
        match self {
            Self::Create(inner) => &inner.settings,
            Self::Amend(inner) => &inner.settings,
            Self::List(inner) => &inner.settings,
            Self::Apply(inner) => &inner.settings,
            Self::Show(inner)
            | Self::Export(inner)
            | Self::Pause(inner)
            | Self::Resume(inner)
            | Self::Close(inner)
            | Self::Crash(inner)
            | Self::Release(inner) => &inner.settings,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct OneCampaign {
    /// Campaign id
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct ApplyArguments {
    /// Files in TOML (named so) or JSON: one definition with campaign_id and quota, a list of them, or
    /// campaigns with such a list. What a definition leaves out gets its default
    #[arg(value_name = "FILE", required = true)]
    pub(super) files: Vec<PathBuf>,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Campaign id
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
    #[command(flatten)]
    pub(super) terms: DefinitionFlags,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct AmendArguments {
    /// Campaign id
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
    #[command(flatten)]
    pub(super) terms: AmendmentFlags,
    #[command(flatten)]
    settings: Settings,
}

/// Where a call of the admin listener goes, and how its answer is printed.
#[derive(Debug, Args)]
pub(super) struct AdminListener {
    /// URL of the admin listener, or unix:/path [default: where admin.listen says, https:// with admin.tls]
    #[arg(long, global = true, value_name = "URL", display_order = 90)]
    pub(super) admin: Option<String>,
    #[command(flatten)]
    pub(super) tls: TlsFiles,
    /// Admin token [default: the setting admin.token, else the file admin.token in the data folder]
    #[arg(
        long,
        global = true,
        value_name = "TOKEN",
        conflicts_with = "token_file",
        display_order = 91
    )]
    pub(super) token: Option<String>,
    /// File with the admin token
    #[arg(long, global = true, value_name = "FILE", display_order = 91)]
    pub(super) token_file: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true, display_order = 92)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) settings: Settings,
}

#[derive(Debug, Args)]
#[group(id = "crashed", required = true, multiple = false, args = ["campaign", "partition", "supervisor"])]
pub(super) struct CrashArguments {
    /// The campaign whose coupon actor panics
    #[arg(value_parser = CampaignId::parse)]
    pub(super) campaign: Option<CampaignId>,
    /// The partition whose consumer panics
    #[arg(long, value_name = "N")]
    pub(super) partition: Option<u32>,
    /// The supervisor panics; the node ends with it
    #[arg(long)]
    pub(super) supervisor: bool,
    #[command(flatten)]
    pub(super) listener: AdminListener,
}

#[derive(Debug, Args)]
pub(super) struct IssueArguments {
    /// Campaign id
    #[arg(value_parser = CampaignId::parse)]
    pub(super) campaign: CampaignId,
    /// User id
    #[arg(value_parser = UserId::parse)]
    pub(super) user: UserId,
    /// Seconds to wait for the decision
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(0..=30))]
    pub(super) wait: u64,
    /// Idempotency key: repeating a request with the same key returns the same coupon
    #[arg(long, value_parser = IdempotencyKey::parse)]
    pub(super) key: Option<IdempotencyKey>,
    /// URL of the public listener, or unix:/path [default: where api.listen says, https:// with api.tls]
    #[arg(long, value_name = "URL")]
    pub(super) api: Option<String>,
    /// File with the user's token (JWT), where api.identity is "jwt"
    #[arg(long, value_name = "FILE")]
    pub(super) user_token_file: Option<PathBuf>,
    /// PEM file with the authorities that sign the node's certificate [default: those of the system]
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    settings: Settings,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn settled(line: &str) -> (Settings, Command) {
        Arguments::try_parse_from(line.split_whitespace()).unwrap().settled()
    }

    #[track_caller]
    fn check_settings(line: &str, config: Option<&str>, set: &[&str]) {
        let (settings, _) = settled(line);
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(settings, Settings { config: config.map(PathBuf::from), set }, "{line}");
    }

    #[test]
    fn clap_accepts_the_definition() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn settings_may_follow_the_subcommand() {
        check_settings("coupond", None, &[]);
        check_settings("coupond --config a --set x=1", Some("a"), &["x=1"]);
        check_settings("coupond serve --config a --set x=1", Some("a"), &["x=1"]);
        check_settings(
            "coupond --set x=1 --set y=2 --config a serve --set x=3 --config b",
            Some("b"),
            &["x=1", "y=2", "x=3"],
        );
        check_settings(
            "coupond --set x=1 campaign --set y=2 show a --set z=3 --config b",
            Some("b"),
            &["x=1", "y=2", "z=3"],
        );
        check_settings("coupond --set x=1 issue c u --set y=2", None, &["x=1", "y=2"]);
        check_settings("coupond --set x=1 check-config --set y=2", None, &["x=1", "y=2"]);
        check_settings("coupond --set x=1 print-config --set y=2", None, &["x=1", "y=2"]);
        check_settings("coupond --set x=1 health --set y=2", None, &["x=1", "y=2"]);
        check_settings("coupond --set x=1 rehearse a.toml --set y=2", None, &["x=1", "y=2"]);
        check_settings("coupond --set x=1 audit --set y=2", None, &["x=1", "y=2"]);
    }

    #[test]
    fn serve_is_the_default_command() {
        assert!(matches!(settled("coupond").1, Command::Serve(_)));
    }

    #[test]
    fn client_options_may_follow_the_action() {
        for line in [
            "coupond campaign --admin http://h:1 --token t --json list",
            "coupond campaign list --admin http://h:1 --token t --json",
        ] {
            let Command::Campaign(campaign) = settled(line).1 else { panic!("{line}") };
            assert_eq!(campaign.listener.admin.as_deref(), Some("http://h:1"), "{line}");
            assert_eq!(campaign.listener.token.as_deref(), Some("t"), "{line}");
            assert!(campaign.listener.json, "{line}");
        }
    }

    #[test]
    fn wrong_usage_ends_with_code_2() {
        for line in [
            "coupond nothing",
            "coupond campaign",
            "coupond campaign create",
            "coupond campaign create spring",
            "coupond campaign create Spring --quota 1",
            "coupond campaign create spring --quota -1",
            "coupond campaign create spring --quota 1 --opens-at tomorrow",
            "coupond campaign create spring --quota 1 --opens-at 2027-01-01T12:00:00",
            "coupond campaign create spring --quota 1 --opens-at none",
            "coupond campaign amend spring",
            "coupond campaign show ../x",
            "coupond issue spring",
            "coupond skip",
            "coupond skip 3 --offset 100",
            "coupond skip 3 --offset -1 --reason lost",
            "coupond crash",
            "coupond crash Spring",
            "coupond crash spring --partition 1",
            "coupond crash --partition 1 --supervisor",
            "coupond issue spring ..",
            "coupond rehearse",
            "coupond rehearse load/peak.toml --shrink 0",
            "coupond rehearse load/peak.toml --local --admin http://h:1",
            "coupond rehearse --compare a.json",
            "coupond issue spring ada --wait 31",
            "coupond issue spring ada --key \"x",
        ] {
            let error = Arguments::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }
}
