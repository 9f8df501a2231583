//! The names of a backbone's classes.

/// One class of a backbone's own classifier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    /// `WordNet` id (`n01440764`) where every line of the labels file begins with one; else empty.
    pub id: String,
    /// The rest of the line.
    pub text: String,
}

/// The labels of all classes, by class index. May be empty: then classes have only an index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(Vec<Label>);

/// A text does not name exactly one class.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No class has this label.
    #[error("no class is labelled {0:?}; `graftd models inspect` shows where the labels are")]
    Unknown(String),
    /// Several classes have this label.
    #[error("the label {0:?} occurs twice (classes {1} and {2}); name the class by its index")]
    Ambiguous(String, usize, usize),
}

impl Labels {
    /// Reads a labels file: one class a line, in the order of the classifier's outputs. If every
    /// line begins with `n` and eight digits, that token is the id and the rest is the label.
    pub fn parse(text: &str) -> Self {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let lines = match lines.iter().rposition(|line| !line.is_empty()) {
            Some(last) => &lines[..=last],
            None => &[],
        };
        let split = |line: &str| {
            let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            is_wordnet_id(first)
                .then(|| Label { id: first.to_owned(), text: rest.trim().to_owned() })
        };
        let with_ids: Option<Vec<Label>> = lines.iter().map(|line| split(line)).collect();
        Self(with_ids.unwrap_or_else(|| {
            let plain = |line: &&str| Label { id: String::new(), text: (*line).to_owned() };
            lines.iter().map(plain).collect()
        }))
    }

    /// Number of classes that have a label.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no class has a label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The label of class `index`; an empty one where there is none.
    pub fn get(&self, index: usize) -> Label {
        self.0.get(index).cloned().unwrap_or_default()
    }

    /// The one class whose label, or first synonym, or id is `text`, upper and lower case alike.
    ///
    /// # Errors
    /// When there is none or more than one.
    pub fn find(&self, text: &str) -> Result<usize, LabelError> {
        let whole = |label: &Label| label.text.eq_ignore_ascii_case(text) || label.id == text;
        let first = |label: &Label| {
            label
                .text
                .split(',')
                .next()
                .is_some_and(|first| first.trim().eq_ignore_ascii_case(text))
        };
        let matching = |fits: &dyn Fn(&Label) -> bool| {
            let fitting = self.0.iter().enumerate().filter(|(_, label)| fits(label));
            fitting.map(|(index, _)| index).take(2).collect::<Vec<_>>()
        };
        let exact = matching(&whole);
        let found = if exact.is_empty() { matching(&first) } else { exact };
        match found.as_slice() {
            [] => Err(LabelError::Unknown(text.chars().take(80).collect())),
            [one] => Ok(*one),
            [one, two, ..] => Err(LabelError::Ambiguous(text.to_owned(), *one, *two)),
        }
    }
}

fn is_wordnet_id(token: &str) -> bool {
    token.len() == 9
        && token.starts_with('n')
        && token[1..].bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wordnet_ids_are_split_off_only_where_every_line_has_one() {
        let labels = Labels::parse("n01440764 tench, Tinca tinca\nn01443537 goldfish\n");
        assert_eq!(
            labels.get(0),
            Label { id: "n01440764".into(), text: "tench, Tinca tinca".into() }
        );
        let labels = Labels::parse("n01440764 tench\nplain\n\n");
        assert_eq!(labels.get(0), Label { id: String::new(), text: "n01440764 tench".into() });
        assert_eq!(labels.len(), 2);
        assert_eq!(labels.get(7), Label::default());
    }

    #[test]
    fn a_label_is_found_by_its_whole_text_its_first_synonym_or_its_id() {
        let labels = Labels::parse("n00000001 crane\nn00000002 tench, Tinca\nn00000003 crane\n");
        assert_eq!(labels.find("Tench"), Ok(1));
        assert_eq!(labels.find("n00000002"), Ok(1));
        assert_eq!(labels.find("crane"), Err(LabelError::Ambiguous("crane".into(), 0, 2)));
        assert!(matches!(labels.find("unicorn"), Err(LabelError::Unknown(_))));
    }
}
