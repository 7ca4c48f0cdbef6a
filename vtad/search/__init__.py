"""The search for better options: a study of trainings (Optuna), each judged by good pictures that it has not seen.

May import training, tracking, what is below them, and the runtime's contract. The only room that imports optuna.
"""
