"""Reading what was recorded. Each module is one kind of question; every answer is read in one transaction.

A page is chosen by an index first; what belongs to its rows is then read with one statement a table. So the cost
follows the page and never the size of the tables.
"""
