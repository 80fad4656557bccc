// SPDX-License-Identifier: GPL-2.0-only
//! Medians and ratios.

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Operations per second.
    Higher,
    /// What an operation costs.
    Lower,
}

/// The middle of the values, or the mean of the two in the middle; none of none.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *sorted.get(middle.checked_sub(1)?)?;
    Some((lower + upper) / 2.0)
}

/// Distance of the furthest value from the median, as a part of the median: how much
/// a figure can be trusted.
pub fn spread(values: &[f64]) -> Option<f64> {
    let middle = median(values)?;
    let furthest = values.iter().map(|value| (value - middle).abs());
    let furthest = furthest.fold(0.0, f64::max);
    (middle > 0.0).then(|| furthest / middle)
}

/// How much better `ours` is than `theirs`: above 1 is better, whichever way that
/// is. None if that cannot be said, as of a cost that is nothing.
pub fn ratio(ours: f64, theirs: f64, better: Better) -> Option<f64> {
    let (above, below) = match better {
        Better::Higher => (ours, theirs),
        Better::Lower => (theirs, ours),
    };
    (above > 0.0 && below > 0.0).then(|| above / below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_whatever_the_order() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), Some(3.0));
    }

    #[test]
    fn a_spread_is_relative_to_the_median() {
        assert_eq!(spread(&[10.0, 10.0, 15.0]), Some(0.5));
        assert_eq!(spread(&[10.0]), Some(0.0));
        assert_eq!(spread(&[0.0, 0.0]), None);
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_ratio_above_one_is_better_for_rates_and_for_costs() {
        assert_eq!(ratio(200.0, 100.0, Better::Higher), Some(2.0));
        assert_eq!(ratio(200.0, 100.0, Better::Lower), Some(0.5));
    }

    #[test]
    fn there_is_no_ratio_to_nothing() {
        assert_eq!(ratio(1.0, 0.0, Better::Higher), None);
        assert_eq!(ratio(0.0, 1.0, Better::Lower), None);
    }
}
