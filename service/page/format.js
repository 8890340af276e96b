// Numbers as people read them; what was proven is never rounded up.

export const NORMS = { l1: "L1", l2: "L2", linf: "L∞" };

/** A certified size or a lower bound with at most `digits` significant digits, rounded down. */
export function down(value, digits = 4) {
  if (value === 0) return "0";
  const unit = 10 ** (Math.floor(Math.log10(value)) - digits + 1);
  // Numbers that already have this few digits must not lose their last to binary fractions.
  const whole = Math.round(value / unit);
  const floor = Math.abs(value / unit - whole) < 1e-9 ? whole : Math.floor(value / unit);
  return plain(Number((floor * unit).toPrecision(digits)));
}

/** The shortest exact form of a number, without an exponent where a person would not use one. */
export function plain(value) {
  const options = { maximumSignificantDigits: 15, useGrouping: false };
  return value >= 1e-6 ? value.toLocaleString("en", options) : String(value);
}

/** Bounds on scores with three decimals, rounded outwards. */
export const below = (value) => (Math.floor(value * 1000 + 1e-6) / 1000).toFixed(3);
export const above = (value) => (Math.ceil(value * 1000 - 1e-6) / 1000).toFixed(3);

export const whole = (value) => value.toLocaleString("en");

export const percent = (share) => `${plain(Number((100 * share).toPrecision(12)))}%`;
