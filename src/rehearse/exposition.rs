//! Reads metrics in the text format of Prometheus.

use std::collections::BTreeMap;

/// Samples of one scrape: name, labels and value.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrape(Vec<(String, BTreeMap<String, String>, f64)>);

impl Scrape {
    /// Reads the lines of a scrape. What is no sample is left out.
    pub(super) fn parse(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// Returns the values of a metric by one of its labels, summed up over the others.
    pub(super) fn by(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut values = BTreeMap::new();
        for (its, labels, value) in &self.0 {
            if its == name
                && let Some(label) = labels.get(label)
            {
                *values.entry(label.clone()).or_default() += value;
            }
        }
        values
    }

    /// Returns the sum of a metric over its labels; None if there is none.
    pub(super) fn sum(&self, name: &str) -> Option<f64> {
        let mut values = self.0.iter().filter(|(its, ..)| its == name).map(|(.., value)| *value);
        let first = values.next()?;
        Some(first + values.sum::<f64>())
    }

    /// Returns the counts of decisions, each by its status or, for rejections, its reason.
    pub(super) fn decisions(&self, name: &str) -> BTreeMap<String, f64> {
        let mut counts = BTreeMap::new();
        for (its, labels, value) in &self.0 {
            let word = |label: &str| labels.get(label).map_or("", String::as_str);
            let known = if word("reason").is_empty() { word("status") } else { word("reason") };
            if its == name {
                *counts.entry(known.to_owned()).or_default() += value;
            }
        }
        counts
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let Some((name, labels)) = series.split_once('{') else {
        return Some((series.to_owned(), BTreeMap::new(), value));
    };
    let mut read = BTreeMap::new();
    // coupond's label values hold no quotes and no commas.
    for label in labels.strip_suffix('}')?.split(',').filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once('=')?;
        read.insert(key.to_owned(), value.trim_matches('"').to_owned());
    }
    Some((name.to_owned(), read, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_up_by_label() {
        let scrape = Scrape::parse(
            "# TYPE lag gauge\nlag{partition=\"0\"} 3\nlag{partition=\"1\"} 4\nup 1\n\
             d{status=\"issued\",reason=\"\"} 5\nd{status=\"rejected\",reason=\"sold_out\"} 6\n",
        );
        assert_eq!(scrape.sum("lag"), Some(7.0));
        assert_eq!(scrape.sum("none"), None);
        assert_eq!(scrape.by("lag", "partition")["1"], 4.0);
        let decisions = scrape.decisions("d");
        assert_eq!((decisions["issued"], decisions["sold_out"]), (5.0, 6.0));
    }
}
