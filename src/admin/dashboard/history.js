// The last quarter of an hour, put together from the whole picture and the changes that follow it. Steps are known by
// their numbers, so that what comes twice counts once.

export class History {
  #routes = new Map();
  steps = null;
  /** When the step `steps.last` began, in this page's time. */
  #began = 0;

  take(name, { steps, history }) {
    if (name === "whole") this.#routes.clear();
    this.steps = steps;
    this.#began = Date.now() - steps.last_began_s_ago * 1_000;
    for (const [route, parts] of Object.entries(history)) {
      const kept = this.#routes.get(route) ?? {};
      for (const [part, entries] of Object.entries(parts)) kept[part] = merged(kept[part] ?? [], entries, steps);
      this.#routes.set(route, kept);
    }
    for (const route of this.#routes.keys()) if (!(route in history)) this.#routes.delete(route);
  }

  /** The columns of a latency, or the tallies of `traffic`, oldest first. */
  of(route, part) {
    return this.#routes.get(route)?.[part] ?? [];
  }

  /** The time at which a step began. */
  at(step) {
    return this.#began - (this.steps.last - step) * this.steps.seconds * 1_000;
  }

  /** The steps to draw: all since the first there is anything of, but at least two minutes, in round lengths. */
  range(route) {
    const firsts = Object.values(this.#routes.get(route) ?? {}).map((entries) => entries[0]?.step ?? this.steps.last);
    const used = this.steps.last - Math.min(this.steps.last, ...firsts) + 1;
    const lengths = [24, 30, 36, 42, 48, 60, 72, 90, 120, 150, this.steps.kept];
    const length = lengths.find((one) => one >= used) ?? this.steps.kept;
    return { first: this.steps.last - length + 1, last: this.steps.last, length };
  }
}

function merged(kept, entries, { last, kept: most }) {
  const from = entries[0]?.step ?? Infinity;
  return [...kept.filter((one) => one.step < from && one.step > last - most - 1), ...entries];
}
