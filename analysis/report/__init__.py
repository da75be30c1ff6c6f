"""The report: one HTML file with all that a study says, which opens from disk without a network.

    facts.py            what stands in words: the verdict, what ran, the best config
    failures.py         what failed, with the ends of the logs, and the commands that run trials again
    rows.py             the trials and their curves, as the page's table and its script need them
    page.py             the pictures, the template and the policy that keeps the page to itself
    report.html.j2      the page; report.css and the files of script/ are put into it
"""
