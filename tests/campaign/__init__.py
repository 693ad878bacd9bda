"""A campaign that kills, stops and damages runs, fills their disks, and compares the results with the truth.

    python -m tests.campaign --kills=50 --seed=0

Small networks are trained on scikit-learn's digits, analyzed, imported and exported by real processes. Each
case ends well if the same command, started again, finds bit for bit what an undisturbed one finds, or if it
says in one line what is wrong.
"""
