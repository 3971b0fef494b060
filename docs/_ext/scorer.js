// Ranks of search results: Sphinx's own, with the four doors before decisions and logs.
"use strict";
const Scorer = {
  score: (result) => {
    const [docname, , , , score] = result;
    return /^(decisions\/|changelog|benchmarks|contributing|citation)/.test(docname) ? score - 20 : score;
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
