//! Terms of a campaign: values, rules, amendments and JSON.

use super::*;

#[test]
fn a_term_takes_its_own_values_only() {
    let (opens_at, title) = (Some(Timestamp(1)), Some("Spring sale".to_owned()));
    let terms = Terms { opens_at, title, listed: false, ..Terms::of(5) };
    for term in Term::ALL {
        let mut copy = Terms::of(9);
        copy.set(*term, terms.get(*term)).unwrap();
        assert_eq!(copy.get(*term), terms.get(*term), "{}", term.name());
        let of_another = match term.kind() {
            TermKind::Whole(_) => TermValue::Time(Timestamp(1)),
            _ => TermValue::Whole(1),
        };
        assert_eq!(copy.set(*term, Some(of_another)), Err(WrongValue(*term)));
    }
}

#[test]
fn an_amendment_changes_what_it_names() {
    let terms = Terms { closes_at: Some(Timestamp(9)), ..Terms::of(5) };
    let mut amendment = Amendment::default();
    amendment.set(Term::Quota, Some(TermValue::Whole(7))).unwrap();
    amendment.set(Term::ClosesAt, None).unwrap();
    assert_eq!(amendment.set(Term::Code, None), Err(WrongValue(Term::Code)));
    assert_eq!(terms.amended(&amendment), Terms::of(7));
}

#[test]
fn json_tells_removed_from_kept() {
    let amendment: Amendment = serde_json::from_str(r#"{"closes_at":null}"#).unwrap();
    assert_eq!(amendment, Amendment { closes_at: Some(None), ..Amendment::default() });
    assert_eq!(serde_json::to_string(&amendment).unwrap(), r#"{"closes_at":null}"#);
    assert!(serde_json::from_str::<Amendment>(r#"{"quota":null}"#).is_err());
    assert!(serde_json::from_str::<Amendment>(r#"{"code":{}}"#).is_err());
}

#[test]
fn a_title_has_1_to_120_characters_for_people() {
    let rules = |title: &str| -> Vec<String> {
        let terms = Terms { title: Some(title.to_owned()), ..Terms::of(5) };
        let faults = terms.faults().into_iter();
        faults.map(|fault| format!("{} must be {}", fault.field, fault.rule)).collect()
    };
    let longest = "\u{1f338}".repeat(120);
    for title in ["a", " ", "Frühling", &longest] {
        assert_eq!(rules(title), Vec::<String>::new(), "{title}");
    }
    for title in ["", &format!("{longest}a")] {
        assert_eq!(rules(title), ["title must be 1 to 120 characters"], "{title}");
    }
    for title in ["\n", "a\0", "\u{7f}", "\u{85}", "tab\there"] {
        assert_eq!(rules(title), ["title must be without control characters"], "{title:?}");
    }
}

#[test]
fn terms_are_the_same_after_json() {
    let (opens_at, title) = (Some(Timestamp(1)), Some("\u{1f338} \"Spring\"".to_owned()));
    for terms in [Terms::of(5), Terms { opens_at, title, listed: false, ..Terms::of(5) }] {
        let json = serde_json::to_string(&terms).unwrap();
        assert_eq!(serde_json::from_str::<Terms>(&json).unwrap(), terms, "{json}");
    }
}
