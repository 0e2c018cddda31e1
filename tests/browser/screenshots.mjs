// The README's pictures: the page at three widths in both themes, while the demo's incident lasts.
//
// HEADWAY=target/release/headway PLAYWRIGHT_FOLDER=target/browser CHROMIUM=$(command -v chromium) \
//   node tests/browser/screenshots.mjs

import { mkdirSync } from "node:fs";

import { Headway, drawn, launch, open } from "./stage.mjs";

const FOLDER = "docs/screenshots";
/** The incident is the third quarter: two thirds into the demo it has lasted for a third of a quarter and more. */
const DURATION_S = Number(process.env.DURATION_S ?? 480);
const HEIGHTS = { 360: 1500, 768: 1500, 1920: 1280 };

mkdirSync(FOLDER, { recursive: true });
const began = Date.now();
const [browser, demo] = await Promise.all([launch(), Headway.demo("127.0.0.1:0", `${DURATION_S}s`)]);
await new Promise((done) => setTimeout(done, DURATION_S * 640 - (Date.now() - began)));
for (const colorScheme of ["light", "dark"]) {
  for (const [width, height] of Object.entries(HEIGHTS)) {
    const { page, context, check } = await open(browser, demo, { viewport: { width: Number(width), height }, colorScheme });
    await drawn(page);
    await page.screenshot({ path: `${FOLDER}/dashboard-${width}-${colorScheme}.png` });
    if (width === "1920") {
      await page.getByText("Missed, failed or turned away").click();
      // Where nothing was missed, any decision shows what there is to see.
      if ((await page.locator("button[aria-expanded]").count()) === 0) await page.getByRole("button", { name: "Ended" }).click();
      await page.locator("button[aria-expanded]").first().click();
      await page.waitForSelector(".waterfall tbody tr");
      await page.evaluate(() => window.scrollTo(0, document.getElementById("decisions-title").getBoundingClientRect().y + window.scrollY - 70));
      await page.screenshot({ path: `${FOLDER}/decision-${colorScheme}.png`, clip: { x: 0, y: 60, width: 1920, height: 600 } });
    }
    await check();
    await context.close();
  }
}
await browser.close();
await demo.end();
