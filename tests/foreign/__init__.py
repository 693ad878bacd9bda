"""Networks as other people write them: functions of their own variables, which know nothing of resjax.

``case.py`` says what each of them consists of, and each other module holds networks of one library.
"""
