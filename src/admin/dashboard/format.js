// Numbers as text. Everything on the page is written by these, and nothing is calculated here but units.

const counts = new Intl.NumberFormat("en-US");
const rounded = (digits) => new Intl.NumberFormat("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const [whole, tenths, hundredths] = [rounded(0), rounded(1), rounded(2)];
const significant = new Intl.NumberFormat("en-US", { maximumSignificantDigits: 3 });
const clockTime = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const clockMinute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });

export const NONE = "–";

const known = (value) => value !== undefined && value !== null;

export const count = (value) => (known(value) ? counts.format(value) : NONE);

/** Large counts in short: 12,300 tokens are 12.3k. */
export function short(value) {
  if (!known(value)) return NONE;
  if (value >= 1e6) return `${tenths.format(value / 1e6)}M`;
  return value >= 1e4 ? `${tenths.format(value / 1e3)}k` : counts.format(Math.round(value));
}

/** A latency with its unit. */
export function latency(ms) {
  if (!known(ms)) return NONE;
  if (ms >= 9_950) return `${tenths.format(ms / 1e3)} s`;
  if (ms >= 1_000) return `${hundredths.format(ms / 1e3)} s`;
  return `${ms >= 99.5 ? whole.format(ms) : ms >= 9.95 ? tenths.format(ms) : hundredths.format(ms)} ms`;
}

/** A share as per cent; what is not quite all is never rounded to 100 %, nor what is not quite none to 0 %. */
export function percent(share) {
  if (!known(share)) return NONE;
  const value = share * 100;
  if (value > 99.9 && value < 100) return "> 99.9 %";
  if (value > 0 && value < 0.1) return "< 0.1 %";
  if (value === 0 || value === 100) return `${value} %`;
  const text = Math.abs(value) >= 1_000 ? counts.format(Math.round(value)) : tenths.format(value);
  return `${text.replace("-", "−")} %`;
}

/** Burn rates: how many times faster than allowed. */
export const times = (rate) => (known(rate) ? `${rate >= 10 ? whole.format(rate) : tenths.format(rate)}×` : NONE);

export const perSecond = (rate) => (known(rate) ? `${tenths.format(rate)} req/s` : NONE);

/** Money, in whatever currency the configuration's prices are. */
export function money(amount) {
  if (!known(amount)) return NONE;
  return amount >= 100 ? counts.format(Math.round(amount)) : amount >= 1 ? hundredths.format(amount) : significant.format(amount);
}

/** What a thousand requests cost: one alone is a number of zeros. */
export const moneyOfThousand = (amount) => (known(amount) ? money(amount * 1_000) : NONE);

export function price(of) {
  if (!known(of)) return "no price";
  if (known(of.per_gpu_hour)) return `${hundredths.format(of.per_gpu_hour)} per GPU-hour × ${of.gpus}`;
  return `${hundredths.format(of.input_per_mtok)} in, ${hundredths.format(of.output_per_mtok)} out per Mtok`;
}

export function bytes(value) {
  return known(value) ? `${tenths.format(value / 2 ** 30)} GiB` : NONE;
}

/** How long something took or is ago. */
export function age(seconds) {
  if (!known(seconds)) return NONE;
  if (seconds < 1.5) return "1 s";
  if (seconds < 120) return `${whole.format(seconds)} s`;
  if (seconds < 7_200) return `${whole.format(seconds / 60)} min`;
  return seconds < 172_800 ? `${whole.format(seconds / 3_600)} h` : `${whole.format(seconds / 86_400)} d`;
}

export const time = (at) => clockTime.format(new Date(at));
export const minute = (at) => clockMinute.format(new Date(at));

/** `p95`, `p99.9`. */
export const quantile = (share) => `p${significant.format(share * 100)}`;

export const LATENCIES = { ttft: "TTFT", itl: "ITL", e2e: "End to end", joint: "All together" };

/** A name of the API as words: `cheapest_within_slo`. */
export const words = (name) => (name ?? "none").replaceAll("_", " ").replace(/\bslo\b/, "SLO");
