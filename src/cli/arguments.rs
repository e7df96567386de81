//! What may be asked on the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use crate::{
    api::http,
    domain::ids::{CampaignId, IdempotencyKey, UserId},
};

/// Gives out a limited number of coupons, first come first served, and can prove that it did.
///
/// Without a command it runs a node, as `serve` does. Exit codes: 0 done, 1 it could not be done,
/// 2 usage or configuration, 3 an invariant is broken.
#[derive(Debug, Parser)]
#[command(name = "coupond", version, max_term_width = 100)]
pub(super) struct Arguments {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

/// Where settings come from; taken before and after each subcommand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(super) struct Settings {
    /// TOML file with settings [default: config/coupond.toml if it is there]
    #[arg(long, value_name = "FILE", display_order = 100)]
    pub(super) config: Option<PathBuf>,
    /// One setting, stronger than the environment and the file; repeatable. The value is TOML, a
    /// bare word is a text, a list may be separated by commas
    #[arg(long, value_name = "KEY=VALUE", display_order = 101)]
    pub(super) set: Vec<String>,
}

impl Settings {
    /// These, then those of a subcommand: the later file counts, and all of `--set`.
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
    /// Administer campaigns over the admin listener
    Campaign(CampaignArguments),
    /// Ask for one coupon over the public listener
    Issue(IssueArguments),
    /// Tell every problem of the configuration
    CheckConfig(ServeArguments),
    /// Print the effective settings, secrets hidden
    PrintConfig(PrintArguments),
    /// Read request log and coupon store, and check that every invariant holds
    Audit(AuditArguments),
    /// Tell whether a node is ready (exit code 0) or not (1)
    Health(HealthArguments),
    /// Let the whole system live through simulated worlds full of faults, and judge each
    ///
    /// Ctrl-C ends it with what it came to so far. Exit codes: 0 nothing broke, 1 not all worlds were
    /// run, 2 usage, 3 something broke, or a kind of fault never struck in 20,000 worlds or more.
    Simulate(SimulateArguments),
}

impl Arguments {
    /// The settings of all levels, and the command.
    pub(super) fn settled(self) -> (Settings, Command) {
        let command = self.command.unwrap_or_else(|| Command::Serve(ServeArguments::default()));
        let settings = match &command {
            Command::Serve(inner) | Command::CheckConfig(inner) => {
                self.settings.then(&inner.settings)
            }
            Command::Campaign(inner) => {
                self.settings.then(&inner.settings).then(inner.action.settings())
            }
            Command::Issue(inner) => self.settings.then(&inner.settings),
            Command::PrintConfig(inner) => self.settings.then(&inner.settings),
            Command::Health(inner) => self.settings.then(&inner.settings),
            Command::Audit(inner) => self.settings.then(&inner.settings),
            Command::Simulate(_) => self.settings,
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
    /// Address of the admin listener [default: http:// and admin.listen]
    #[arg(long, value_name = "URL")]
    pub(super) admin: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

/// Read request log and coupon store, and check that every invariant holds
///
/// Replays every record with a model of its own and compares what it comes to with coupons,
/// by-user view, definition versions, marks, holds and progress: INV-1 to INV-8. Writes nothing.
/// An embedded node must be stopped; a distributed instance may be live: it is judged up to the
/// progress that it had made. Exit codes: 0 everything holds, 1 it could not be done, 2 usage or
/// configuration, 3 an invariant is broken.
#[derive(Debug, Args)]
#[command(after_long_help = ANSWERS_HELP)]
pub(super) struct AuditArguments {
    #[command(flatten)]
    settings: Settings,
    /// Judge what clients were told, too: a file with one JSON object a line
    #[arg(long, value_name = "FILE")]
    pub(super) answers: Option<PathBuf>,
    /// Judge the audit itself: plant every kind of corruption in otherwise good data in memory
    #[arg(long, conflicts_with = "answers")]
    pub(super) self_test: bool,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
}

const ANSWERS_HELP: &str = "\
Answers: one line for each call of POST /coupon/issue and GET /coupon/requests/{request_id},
in any order:

  {\"time\":\"2026-11-26T12:00:00.123Z\",\"user\":\"ada\",\"campaign\":\"spring\",\"key\":\"k-1\",
   \"status\":200,\"body\":{\"request_id\":\"...\",\"status\":\"issued\",\"coupon\":{...}}}

time: when the client was told. key: the idempotency key; absent if there was none. status: the
HTTP status; 0 if no answer came. body: the answer's body as it was; absent if there was none.";

#[derive(Debug, Args)]
pub(super) struct SimulateArguments {
    /// How many worlds
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(super) seeds: u64,
    /// The first seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Worlds at the same time [default: one per core]
    #[arg(long, value_name = "J")]
    pub(super) jobs: Option<usize>,
    /// Kinds of faults that may strike, by name, separated by commas; "none" for none [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) faults: Option<Vec<String>>,
    /// Requests of clients in each world, retries aside
    #[arg(long, value_name = "N", default_value_t = 500)]
    pub(super) requests: u32,
    /// List the kinds of faults and run nothing
    #[arg(long)]
    pub(super) list_faults: bool,
    /// Run every world twice and compare: the same seed must give the same course
    #[arg(long)]
    pub(super) twice: bool,
    /// Firings of faults that are left out, by number, as a shrunk failure says
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub(super) spare: Vec<u32>,
    /// Print everything that happens
    #[arg(long)]
    pub(super) trace: bool,
    /// Plant one bug after the other, and print which invariant caught it, after how many seeds
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    pub(super) planted: bool,
    /// Go on after a broken invariant, and count what breaks
    #[arg(long)]
    pub(super) keep_going: bool,
}

#[derive(Debug, Args)]
pub(super) struct CampaignArguments {
    #[command(flatten)]
    settings: Settings,
    /// Address of the admin listener [default: http:// and admin.listen]
    #[arg(long, global = true, value_name = "URL", display_order = 90)]
    pub(super) admin: Option<String>,
    /// Admin token [default: admin.token of the settings, else the file in the data folder]
    #[arg(long, global = true, value_name = "TOKEN", display_order = 91)]
    pub(super) token: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true, display_order = 92)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) action: CampaignAction,
}

#[derive(Debug, Subcommand)]
pub(super) enum CampaignAction {
    /// Define a campaign; saying it twice is no error
    Create(CreateArguments),
    /// Change a campaign; what is not given stays
    Amend(AmendArguments),
    /// List the campaigns by id
    List(ListArguments),
    /// Show a campaign
    Show(OneCampaign),
    /// Issue nothing until resumed
    Pause(OneCampaign),
    /// Issue again
    Resume(OneCampaign),
    /// End a campaign for good
    Close(OneCampaign),
    /// Let a quarantined campaign try again
    Release(OneCampaign),
}

impl CampaignAction {
    fn settings(&self) -> &Settings {
        match self {
            Self::Create(inner) => &inner.settings,
            Self::Amend(inner) => &inner.settings,
            Self::List(inner) => &inner.settings,
            Self::Show(inner)
            | Self::Pause(inner)
            | Self::Resume(inner)
            | Self::Close(inner)
            | Self::Release(inner) => &inner.settings,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct OneCampaign {
    /// The campaign
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
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
    /// The campaign
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
    /// Coupons in all
    #[arg(long, value_name = "N")]
    pub(super) quota: u64,
    /// Coupons that one user may hold [default: 1]
    #[arg(long, value_name = "N")]
    pub(super) per_user_limit: Option<u64>,
    /// First time at which coupons are issued, as in 2027-01-01T12:00:00Z [default: at once]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) opens_at: Option<Value>,
    /// First time at which none is issued any more [default: never]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(super) closes_at: Option<Value>,
    /// What every code starts with: at most 16 of A-Z, 0-9 and '-'
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    pub(super) code_prefix: Option<String>,
    /// Characters of a code without its prefix [default: enough for 128 bits]
    #[arg(long, value_name = "N")]
    pub(super) code_length: Option<u64>,
    /// Characters that codes are made of, as one text
    #[arg(long, value_name = "CHARACTERS", allow_hyphen_values = true)]
    pub(super) code_charset: Option<String>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)
    .args(["quota", "per_user_limit", "opens_at", "closes_at"])))]
pub(super) struct AmendArguments {
    /// The campaign
    #[arg(value_parser = CampaignId::parse)]
    pub(super) id: CampaignId,
    /// Coupons in all, not below what is issued
    #[arg(long, value_name = "N")]
    pub(super) quota: Option<u64>,
    /// Coupons that one user may hold
    #[arg(long, value_name = "N")]
    pub(super) per_user_limit: Option<u64>,
    /// First time at which coupons are issued; none: at once
    #[arg(long, value_name = "TIME|none", value_parser = time_or_none)]
    pub(super) opens_at: Option<Value>,
    /// First time at which none is issued any more; none: never
    #[arg(long, value_name = "TIME|none", value_parser = time_or_none)]
    pub(super) closes_at: Option<Value>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Args)]
pub(super) struct IssueArguments {
    /// The campaign
    #[arg(value_parser = CampaignId::parse)]
    pub(super) campaign: CampaignId,
    /// Who asks
    #[arg(value_parser = UserId::parse)]
    pub(super) user: UserId,
    /// Seconds to wait for the decision
    #[arg(long, value_name = "SECONDS", default_value_t = 5,
        value_parser = clap::value_parser!(u64).range(0..=30))]
    pub(super) wait: u64,
    /// Idempotency key: with the same one the same coupon is given again
    #[arg(long, value_parser = IdempotencyKey::parse)]
    pub(super) key: Option<IdempotencyKey>,
    /// Address of the public listener [default: http:// and api.listen]
    #[arg(long, value_name = "URL")]
    pub(super) api: Option<String>,
    /// Print JSON, for programs
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    settings: Settings,
}

/// A time that the listeners take, as it was given: rewritten, it might be another.
fn time(text: &str) -> Result<Value, String> {
    match http::parse_time(text) {
        Some(_) => Ok(Value::String(text.to_owned())),
        None => Err(format!("must be {}, as in 2027-01-01T12:00:00Z", http::TIME_RULE)),
    }
}

fn time_or_none(text: &str) -> Result<Value, String> {
    if text == "none" { Ok(Value::Null) } else { time(text) }
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
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn settings_are_taken_before_and_after_the_subcommand() {
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
        check_settings("coupond --set x=1 audit --set y=2", None, &["x=1", "y=2"]);
    }

    #[test]
    fn without_a_command_a_node_is_run() {
        assert!(matches!(settled("coupond").1, Command::Serve(_)));
    }

    #[test]
    fn client_options_are_taken_before_and_after_the_action() {
        for line in [
            "coupond campaign --admin http://h:1 --token t --json list",
            "coupond campaign list --admin http://h:1 --token t --json",
        ] {
            let Command::Campaign(campaign) = settled(line).1 else { panic!("{line}") };
            assert_eq!(campaign.admin.as_deref(), Some("http://h:1"), "{line}");
            assert_eq!(campaign.token.as_deref(), Some("t"), "{line}");
            assert!(campaign.json, "{line}");
        }
    }

    #[test]
    fn usage_that_makes_no_sense_is_refused_with_code_2() {
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
            "coupond issue spring a/b",
            "coupond issue spring ada --wait 31",
            "coupond issue spring ada --key a/b",
        ] {
            let error = Arguments::try_parse_from(line.split_whitespace()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}: {error}");
        }
    }

    #[test]
    fn times_are_sent_as_given_or_refused_like_the_listeners_do() {
        for text in
            ["2027-01-01T12:00:00Z", "2027-01-01T12:00:00.123000+09:00", "9999-12-31T23:59:59.999Z"]
        {
            assert_eq!(time(text), Ok(Value::String(text.to_owned())));
        }
        for text in [
            "2030-01-01T00:00:60Z",
            "20300101T000000Z",
            "2030-01-01T00:00Z",
            "2030-01-01T00:00:00Z[UTC]",
            "1969-12-31T23:59:59Z",
        ] {
            let error = time(text).unwrap_err();
            assert!(error.contains("with an offset, from 1970 to 9999, as in"), "{error}");
        }
        assert_eq!(time_or_none("none"), Ok(Value::Null));
    }
}
