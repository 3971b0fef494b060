// `var`: searchtools.js declares it again. Ranks of search results: Sphinx's own, with lessons and tasks first, functions, decisions and logs last.
"use strict";
var Scorer = {
  score: (result) => {
    const [docname, , , , score] = result;
    if (/^(tutorial|howto)\//.test(docname)) return score + 3;
    return /^(decisions|changelog|benchmarks|contributing|reference\/python)/.test(docname) ? score - 20 : score;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
