"""Reports print verdicts; each module has one `report(run, judgement, out)`."""
